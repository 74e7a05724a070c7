# SPDX-License-Identifier: Apache-2.0
"""CUDA: what the worker refuses, and what ``gdn_prefill_backend`` means on the card at hand."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import torch
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.platforms import current_platform

from ascend_gdn.runner.checks.additional_options import additional_option
from ascend_gdn.runner.checks.refusals import raise_if_refused

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
            "got gdn_prefill_backend='cutedsl', expected 'triton' or 'flashinfer'; pass "
            "--gdn-prefill-backend triton",
        ),
        (
            # check_attention_cp_compatibility in v1/worker/cp_utils.py (0.23.0) says so once the
            # model is loaded and profiled.
            context_parallel > 1,
            f"got --prefill-context-parallel-size {context_parallel}, expected 1: none of vLLM's "
            "attention backends for CUDA has it; leave it out",
        ),
    )


def _obstacles(vllm_config: VllmConfig) -> Iterator[str]:
    """Why FlashInfer is not known to work with the model on the card."""
    if not current_platform.is_device_capability(90):
        capability = current_platform.get_device_capability()
        yield (
            f"compute capability {capability and capability.as_version_str()}, expected 9.0: only "
            "H100 and H200 were tested, and FlashInfer 0.6.12 is reported to hang on B300 "
            "(flashinfer-ai/flashinfer#3698)"
        )
    text = vllm_config.model_config.hf_text_config
    columns = (text.linear_key_head_dim, text.linear_value_head_dim)
    if columns != (128, 128):
        yield (
            f"linear_key_head_dim {columns[0]} and linear_value_head_dim {columns[1]}, expected "
            "128, which FlashInfer takes for granted"
        )
    if find_spec("flashinfer") is None:
        yield "no FlashInfer, expected it to be installed"


def settle_prefill_backend(vllm_config: VllmConfig) -> None:
    """Have ``auto`` mean Triton wherever FlashInfer is not known to work with the model.

    vLLM 0.23.0 itself takes FlashInfer for it on 9.0 and, with CUDA 13, on 10.x too
    (``_resolve_gdn_prefill_backend`` in model_executor/layers/mamba/gdn/qwen_gdn_linear_attn.py),
    installed or not; it reads the option again for each layer and builder.

    Raises ``ValueError`` if FlashInfer is asked for there.
    """
    asked = additional_option(vllm_config, "gdn_prefill_backend")
    if asked not in ("auto", "flashinfer"):
        return
    obstacles = "; ".join(_obstacles(vllm_config))
    raise_if_refused(
        (
            asked == "flashinfer" and bool(obstacles),
            f"got gdn_prefill_backend='flashinfer' with {obstacles}; pass --gdn-prefill-backend "
            "triton",
        )
    )
    if obstacles:
        logger.info("ascend-gdn: gdn_prefill_backend 'auto' means 'triton': got %s.", obstacles)
        vllm_config.additional_config["gdn_prefill_backend"] = "triton"
