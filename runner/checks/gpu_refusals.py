# SPDX-License-Identifier: Apache-2.0
"""CUDA: what the worker refuses, and whose prefill kernels run on the card at hand."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import torch
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.platforms import current_platform

from ascend_gdn.runner.checks.additional_options import additional_option
from ascend_gdn.runner.checks.errors import raise_if_refused

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers


def refuse_unsupported_on_gpu(vllm_config: VllmConfig) -> None:
    """Raise ``ValueError`` naming what this worker does not support on CUDA."""
    backend = additional_option(vllm_config, "gdn_prefill_backend")
    context_parallel = vllm_config.parallel_config.prefill_context_parallel_size
    raise_if_refused(
        (
            # chunk_gated_delta_rule in model_executor/layers/fla/ops/chunk.py (0.23.0).
            vllm_config.model_config.dtype == torch.float32,
            "got dtype float32, expected bfloat16 or float16: vLLM's GDN kernels for CUDA take no "
            "other; pass --dtype bfloat16",
        ),
        (
            # It makes tables of its own on the device (prepare_metadata_cutedsl in
            # model_executor/layers/mamba/ops/gdn_chunk_cutedsl, 0.23.0).
            backend == "cutedsl",
            "got gdn_prefill_backend='cutedsl', expected 'ascend_gdn', 'triton' or 'flashinfer'; "
            "leave --gdn-prefill-backend out",
        ),
        (
            # check_attention_cp_compatibility in v1/worker/cp_utils.py (0.23.0) says so once the
            # model is loaded and profiled.
            context_parallel > 1,
            f"got --prefill-context-parallel-size {context_parallel}, expected 1: none of vLLM's "
            "attention backends for CUDA has it; leave it out",
        ),
    )


_MOST_COLUMNS = 256
"""Of a head that our kernels take."""


def _obstacles(vllm_config: VllmConfig, backend: str) -> Iterator[str]:
    """Why the kernels of ``backend`` are not known to work with the model on the card."""
    capability = current_platform.get_device_capability()
    version = f"compute capability {capability and capability.as_version_str()}"
    text = vllm_config.model_config.hf_text_config
    columns = (text.linear_key_head_dim, text.linear_value_head_dim)
    heads = "linear_key_head_dim {} and linear_value_head_dim {}".format(*columns)
    if backend == "ascend_gdn":
        if not current_platform.has_device_capability(80):
            yield f"{version}, expected 8.0 or more"
        if max(columns) > _MOST_COLUMNS:
            yield f"{heads}, expected {_MOST_COLUMNS} or less"
        return
    if not current_platform.is_device_capability(90):
        yield (
            f"{version}, expected 9.0: only H100 and H200 were tested, and FlashInfer 0.6.12 is "
            "reported to hang on B300 (flashinfer-ai/flashinfer#3698)"
        )
    if columns != (128, 128):
        yield f"{heads}, expected 128, which FlashInfer takes for granted"
    if find_spec("flashinfer") is None:
        yield "no FlashInfer, expected it to be installed"


def settle_prefill_backend(vllm_config: VllmConfig) -> None:
    """Say in the configuration, for all layers and builders, whose prefill kernels run.

    ``auto`` means ours, or where these are not known to work with the model, vLLM's by Triton. vLLM
    0.23.0 itself takes FlashInfer for it on 9.0 and, with CUDA 13, on 10.x too
    (``_resolve_gdn_prefill_backend`` in model_executor/layers/mamba/gdn/qwen_gdn_linear_attn.py),
    installed or not; what it does not know, as ours, it takes for Triton.

    Raises ``ValueError`` if kernels are asked for that are not known to work.
    """
    backend = asked = additional_option(vllm_config, "gdn_prefill_backend")
    if asked == "auto":
        backend = "ascend_gdn"
    if backend in ("ascend_gdn", "flashinfer"):
        obstacles = "; ".join(_obstacles(vllm_config, backend))
        raise_if_refused(
            (
                asked == backend and bool(obstacles),
                f"got gdn_prefill_backend={asked!r} with {obstacles}; pass --gdn-prefill-backend "
                "triton",
            )
        )
        if obstacles:
            backend = "triton"
            logger.info("ascend-gdn: gdn_prefill_backend 'auto' means 'triton': got %s.", obstacles)
    vllm_config.additional_config["gdn_prefill_backend"] = backend
