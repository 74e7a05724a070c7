# SPDX-License-Identifier: Apache-2.0
"""vLLM-Ascend 0.23.0, over vLLM 0.23.0."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
from vllm.config import VllmConfig
from vllm_ascend.utils import is_310p
from vllm_ascend.worker.model_runner_v1 import NPUModelRunner

from ascend_gdn.attention.context_parallel import ContextParallelBatch
from ascend_gdn.attention.step_inputs import StepInputs
from ascend_gdn.runner.checks.errors import Refusal
from ascend_gdn.runner.checks.npu_refusals import repair_all2all_backend as repair
from ascend_gdn.runner.checks.npu_seams import common_ascend_seams
from ascend_gdn.runner.checks.seams import Seams
from ascend_gdn.runner.model_runner import WARM_UP_TOKENS
from ascend_gdn.runner.npu_runner import StepNPUModelRunnerMixin
from ascend_gdn.runner.upstream.dummy_run_fence import DummyRunFenceMixin
from ascend_gdn.runner.upstream.ordered_state_copies import OrderedStateCopiesMixin
from ascend_gdn.runner.upstream.state_copy_fence import StateCopyFenceMixin

__all__ = [
    "StepNPUModelRunner",
    "ascend_seams",
    "is_310p",
    "layer_cls",
    "prefill_operators",
    "refusals",
    "repair",
]


class StepNPUModelRunner(
    StateCopyFenceMixin,
    DummyRunFenceMixin,
    OrderedStateCopiesMixin,
    StepNPUModelRunnerMixin,
    NPUModelRunner,
):
    """vLLM-Ascend's model runner, opening a GDN step around each metadata build."""

    _dummy_prefill: ContextParallelBatch | None = None
    """The whole of a dummy batch that prefills, under prefill context parallelism."""

    def warm_up_prefill(self) -> None:
        if self.pcp_size > 1:
            tokens = min(WARM_UP_TOKENS - 1, self.max_num_tokens)
            whole = np.array([tokens * self.pcp_size], np.int32)
            self._dummy_prefill = ContextParallelBatch(whole, 0, self.pcp_size, self.pcp_rank)
        try:
            super().warm_up_prefill()
        finally:
            self._dummy_prefill = None

    def _gdn_step_inputs(self, groups: list[int], idle: bool) -> StepInputs:
        inputs = super()._gdn_step_inputs(groups, idle)
        if idle:
            return replace(inputs, context_parallel=self._dummy_prefill)
        if self.pcp_size == 1:
            return inputs
        # Taken before _prepare_inputs cuts the prompts (worker/pcp_utils.py, 0.23.0).
        whole, decodes = self.pcp_manager.query_lens_pcp_full.np, self.pcp_manager.num_decode_reqs
        batch = ContextParallelBatch(whole, decodes, self.pcp_size, self.pcp_rank)
        return replace(inputs, context_parallel=batch)


def ascend_seams() -> Seams:
    from vllm_ascend.ops.triton.fla.chunk_delta_hupdate import (
        chunk_gated_delta_rule_fwd_hupdate as hupdate,
    )
    from vllm_ascend.worker.pcp_utils import PCPManager

    return common_ascend_seams() | {
        PCPManager.init_batch_info: "self num_scheduled_tokens num_reqs",
        hupdate: "k w u g chunk_size cu_seqlens chunk_indices chunk_offsets",
    }


def refusals(vllm_config: VllmConfig, has_gdn_layers: bool) -> tuple[Refusal, ...]:
    context_parallel = vllm_config.parallel_config.prefill_context_parallel_size
    in_parts = has_gdn_layers and context_parallel > 1
    return (
        (
            in_parts and vllm_config.speculative_config is not None,
            f"got --prefill-context-parallel-size {context_parallel} with a --speculative-config, "
            "which this worker does not have together; leave one out",
        ),
        (
            in_parts and vllm_config.cache_config.enable_prefix_caching,
            f"got --prefill-context-parallel-size {context_parallel} with prefix caching, which "
            "this worker does not have together; add --no-enable-prefix-caching",
        ),
    )


def layer_cls(vllm_config: VllmConfig) -> type[Any]:
    if vllm_config.parallel_config.prefill_context_parallel_size > 1:
        from ascend_gdn.fla.ascend.context_parallel import ContextParallelGatedDeltaNetAttention

        return ContextParallelGatedDeltaNetAttention
    from ascend_gdn.fla.ascend.operators import OwnOperatorsLayer

    return OwnOperatorsLayer


def prefill_operators() -> str:
    return f"vllm-ascend {version('vllm-ascend')}"
