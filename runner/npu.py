# SPDX-License-Identifier: Apache-2.0
"""Ascend: vLLM-Ascend's NPU worker and model runner with step-scoped GDN metadata."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from vllm.config import VllmConfig
from vllm.v1.utils import report_usage_stats
from vllm.v1.worker.workspace import init_workspace_manager
from vllm_ascend.utils import is_310p
from vllm_ascend.worker.model_runner_v1 import NPUModelRunner
from vllm_ascend.worker.worker import NPUWorker as AscendNPUWorker

from ascend_gdn.attention.context_parallel import ContextParallelBatch
from ascend_gdn.attention.step_inputs import StepInputs
from ascend_gdn.runner.checks.npu_refusals import (
    refuse_unsupported_on_ascend,
    repair_all2all_backend,
)
from ascend_gdn.runner.checks.npu_seams import ascend_seams
from ascend_gdn.runner.checks.seams import check_seams
from ascend_gdn.runner.model_runner import WARM_UP_TOKENS, StepModelRunnerMixin
from ascend_gdn.runner.upstream.dummy_run_fence import DummyRunFenceMixin
from ascend_gdn.runner.upstream.ordered_state_copies import OrderedStateCopiesMixin
from ascend_gdn.runner.upstream.state_copy_fence import StateCopyFenceMixin
from ascend_gdn.runner.versions import check_ascend_version
from ascend_gdn.runner.worker import StepWorkerMixin


class StepNPUModelRunner(
    StateCopyFenceMixin,
    DummyRunFenceMixin,
    OrderedStateCopiesMixin,
    StepModelRunnerMixin,
    NPUModelRunner,
):
    """vLLM-Ascend's model runner, opening a GDN step around each metadata build."""

    _dummy_prefill: ContextParallelBatch | None = None
    """The whole of a dummy batch that prefills, under prefill context parallelism."""

    def warm_up_prefill(self) -> None:
        """Run a prefill once, with the KV cache in place.

        vLLM-Ascend (0.23.0) has no GDN metadata in its profile run, and none but decodes' in what
        it captures: otherwise the first request waits for the Triton kernels of a prefill, and of
        slots in the KV cache.
        """
        # No size of a graph, whose decodes may have an operator of their own (pa_shape_list).
        tokens = min(WARM_UP_TOKENS - 1, self.max_num_tokens)
        bounds = torch.tensor([0, tokens], dtype=torch.int32, device=self.device)
        # Of a row without blocks. The dummy run then empties the slots.
        self.input_batch.block_table.compute_slot_mapping(1, bounds, self.positions[:tokens])
        if self.pcp_size > 1:
            whole = np.array([tokens * self.pcp_size], np.int32)
            self._dummy_prefill = ContextParallelBatch(whole, 0, self.pcp_size, self.pcp_rank)
        try:
            # One request, as for the latency of prefills (profile_prefill_latency in
            # worker/worker.py, 0.23.0): otherwise every request of a dummy run has some tokens.
            self._dummy_run(tokens, force_attention=True, profile_cpp=True)
        finally:
            self._dummy_prefill = None

    def initialize_attn_backend(self, *args: Any, **kwargs: Any) -> None:
        # Where vLLM-Ascend makes the metadata builders (model_runner_v1.py, 0.23.0).
        super().initialize_attn_backend(*args, **kwargs)
        self.bind_gdn_builders()

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

    def last_accepted_counts(self) -> np.ndarray:
        counts = super().last_accepted_counts()
        # _update_states_after_model_execute (model_runner_v1.py, 0.23.0) copies them there.
        return self.num_accepted_tokens.np if self.use_async_scheduling else counts


class NPUWorker(StepWorkerMixin, AscendNPUWorker):
    """``--worker-cls ascend_gdn.runner.NPUWorker``."""

    device_type = "npu"
    model_runner_cls = StepNPUModelRunner

    @classmethod
    def check_platform(cls, vllm_config: VllmConfig, has_gdn_layers: bool) -> None:
        check_ascend_version()
        check_seams(ascend_seams())
        refuse_unsupported_on_ascend(vllm_config, is_310p=is_310p(), has_gdn_layers=has_gdn_layers)
        repair_all2all_backend(vllm_config)

    def gdn_layer_cls(self) -> type:
        # It builds on vLLM-Ascend's operators, which are there once its worker is made.
        if self.parallel_config.prefill_context_parallel_size > 1:
            from ascend_gdn.fla.ascend.context_parallel import ContextParallelGatedDeltaNetAttention

            return ContextParallelGatedDeltaNetAttention
        from ascend_gdn.fla.ascend.gdn import StepAscendGatedDeltaNetAttention

        return StepAscendGatedDeltaNetAttention

    def prefill_kernels(self) -> str:
        return f"vllm-ascend {version('vllm-ascend')}"

    def init_device(self) -> None:
        # vLLM-Ascend's worker with another runner, as its own variants do it
        # (xlite/xlite_worker.py, 0.23.0): two runners would hold their device buffers at once.
        if not self.has_gdn_layers:
            super().init_device()
            return
        self.device = self._init_device()
        init_workspace_manager(self.device, num_ubatches=1)
        self.model_runner = self.make_model_runner()
        if self.rank == 0:
            report_usage_stats(self.vllm_config)
