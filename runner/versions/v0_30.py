# SPDX-License-Identifier: Apache-2.0
"""vLLM 0.30.0, whatever the platform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.config import VllmConfig
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.v1.attention.backends.registry import MambaAttentionBackendEnum

# It ends a prefill chunk with its block, and lets no cache hit of a state be shortened
# (_mamba_block_aligned_split in v1/core/sched/scheduler.py, find_longest_cache_hit in
# v1/core/kv_cache_coordinator.py).
from vllm.v1.core.sched.async_scheduler import AsyncScheduler as AlignedAsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler as AlignedScheduler

from ascend_gdn.runner.checks.seams import Seams, common_seams

__all__ = [
    "AlignedAsyncScheduler",
    "AlignedScheduler",
    "gdn_copy_funcs",
    "refuse_unaligned",
    "vllm_seams",
]


def vllm_seams() -> Seams:
    return common_seams() | {
        # A layer returns its output.
        QwenGatedDeltaNetAttention.forward_cuda: "self hidden_states",
        QwenGatedDeltaNetAttention._output_projection: "self core_attn_out z",
    }


def refuse_unaligned(vllm_config: VllmConfig) -> None:
    """Nothing is: a block may take several steps (validate_block_size in config/vllm.py)."""


def gdn_copy_funcs(copy_funcs: Any) -> Sequence[Any]:
    """They are by the kind of a layer."""
    functions: Sequence[Any] = copy_funcs[MambaAttentionBackendEnum.GDN_ATTN]
    return functions
