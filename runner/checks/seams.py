# SPDX-License-Identifier: Apache-2.0
"""The start-up check: are the installed vLLM's functions those that we build on?"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

from ascend_gdn.runner.checks.errors import IncompatibleStackError

Seams: TypeAlias = dict[Callable[..., Any], str]
"""Functions of vLLM that we override or call, and the first parameters, which we count on."""


def shared_seams(layer: Any, builder: Any, runner: Any) -> Seams:
    """The seams of a GDN layer, its builder and a model runner, of vLLM or of vLLM-Ascend."""
    return {
        layer._forward_core: "self mixed_qkv b a core_attn_out",
        builder.build: (
            "self common_prefix_len common_attn_metadata num_accepted_tokens "
            "num_decode_draft_tokens_cpu fast_build"
        ),
        runner._build_attention_metadata: "self num_tokens num_reqs max_query_len",
        runner._determine_batch_execution_and_padding: (
            "self num_tokens num_reqs num_scheduled_tokens_np"
        ),
    }


def common_seams() -> Seams:
    """The seams of vLLM that every platform's worker uses, the same in all versions.

    Its modules are imported inside: the version is checked before.
    """
    from vllm.model_executor.custom_op import PluggableLayer
    from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import (
        QwenGatedDeltaNetAttention as Layer,
    )
    from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadataBuilder as Builder
    from vllm.v1.worker.block_table import BlockTable
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner as Runner

    return shared_seams(Layer, Builder, Runner) | {
        PluggableLayer.register_oot: "_decorated_layer_cls name",
        Runner.initialize_metadata_builders: "self kv_cache_config kernel_block_sizes",
        Runner._dummy_run: "self num_tokens",
        Runner._prepare_inputs: "self scheduler_output num_scheduled_tokens",
        Runner._update_states: "self scheduler_output",
        Runner._update_states_after_model_execute: "self output_token_ids scheduler_output",
        Runner._get_mamba_bufs: "self",
        Runner._sample: "self logits spec_decode_metadata",
        Runner._dummy_sampler_run: "self hidden_states",
        Runner.may_reinitialize_input_batch: "self kv_cache_config",
        Runner.execute_model: "self scheduler_output",
        Runner.sample_tokens: "self grammar_output",
        Runner.capture_model: "self",
        BlockTable.__init__: (
            "self block_size max_num_reqs max_num_blocks_per_req max_num_batched_tokens pin_memory "
            "device kernel_block_size cp_kv_cache_interleave_size"
        ),
        BlockTable.compute_slot_mapping: "self num_reqs query_start_loc positions",
        BlockTable.commit_block_table: "self num_reqs",
    }


def check_seams(seams: Seams) -> None:
    """Raise :class:`IncompatibleStackError` if a seam's signature is not the released one's."""
    mismatches = []
    for function, parameters in seams.items():
        expected, found = tuple(parameters.split()), tuple(inspect.signature(function).parameters)
        if found[: len(expected)] != expected:
            mismatches.append(
                f"{function.__module__}.{function.__qualname__}: got parameters {found}, "
                f"expected them to start with {expected}"
            )
    if mismatches:
        raise IncompatibleStackError(
            "ascend-gdn: the installed vLLM differs from the released one of its version: "
            + "; ".join(mismatches)
            + ". Install the released package, without local changes."
        )
