# SPDX-License-Identifier: Apache-2.0
"""vLLM 0.23.0, whatever the platform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention

from ascend_gdn.runner.checks.align_refusals import refuse_unaligned
from ascend_gdn.runner.checks.seams import Seams, common_seams
from ascend_gdn.runner.upstream.align_scheduler import AlignedAsyncScheduler, AlignedScheduler

__all__ = [
    "AlignedAsyncScheduler",
    "AlignedScheduler",
    "gdn_copy_funcs",
    "refuse_unaligned",
    "vllm_seams",
]


def vllm_seams() -> Seams:
    return common_seams() | {
        # A layer is given the tensor that it writes its output to.
        QwenGatedDeltaNetAttention.forward_cuda: "self hidden_states output",
        QwenGatedDeltaNetAttention._output_projection: "self core_attn_out z output num_tokens",
    }


def gdn_copy_funcs(copy_funcs: Any) -> Sequence[Any]:
    """They are a GDN layer's."""
    functions: Sequence[Any] = copy_funcs
    return functions
