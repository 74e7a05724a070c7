# SPDX-License-Identifier: Apache-2.0
"""CUDA: what the worker refuses before anything is loaded."""

from __future__ import annotations

import torch
from vllm.config import VllmConfig

from ascend_gdn.runner.checks.additional_options import additional_option
from ascend_gdn.runner.checks.refusals import raise_if_refused


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
