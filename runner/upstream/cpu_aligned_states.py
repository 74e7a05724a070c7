# SPDX-License-Identifier: Apache-2.0
"""Prefix caching on CPU: nothing copies GDN states between a request's blocks.

vLLM copies them with Triton kernels (v1/worker/mamba_utils.py), which it does not have on CPU. The
same copies at the same places of a step; what goes where is in ``cpu_align.py``.

Versions: vLLM 0.23.0. Delete when its CPU platform copies them.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import SpeculativeConfig
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.worker.mamba_utils import MambaBuffers, cleanup_mamba_state_idx

from ascend_gdn.runner.base import Base
from ascend_gdn.runner.upstream.cpu_align import (
    AlignedStates,
    copy_after_step,
    copy_before_step,
    index_only_buffers,
)


class AlignedStatesMixin(Base):
    """Put it before vLLM's CPU model runner in the bases."""

    aligned_states: AlignedStates | None = None
    """Set in align mode when vLLM has made the KV cache."""
    _mamba_bufs: MambaBuffers | None  # vLLM's
    speculative_config: SpeculativeConfig | None  # vLLM's

    def initialize_kv_cache(self, *args: Any, **kwargs: Any) -> None:
        super().initialize_kv_cache(*args, **kwargs)
        if self.cache_config.mamba_cache_mode == "align":
            self.aligned_states = AlignedStates(
                self.kv_cache_config,
                self.compilation_config.static_forward_context,
                self.model.get_mamba_state_copy_func(),
            )

    def _get_mamba_bufs(self) -> MambaBuffers:
        if self._mamba_bufs is None:
            self._mamba_bufs = index_only_buffers(
                self.kv_cache_config, self.model.get_mamba_state_copy_func(), self._make_buffer
            )
        return self._mamba_bufs

    def _prepare_inputs(
        self, scheduler_output: SchedulerOutput, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        # The batch is complete (_update_states), and preprocess_mamba has not yet moved its indices
        # and reset its counts (execute_model in gpu_model_runner.py, 0.23.0).
        if self.aligned_states is not None:
            self._copy_states_before_step(self.aligned_states, scheduler_output)
        prepared: tuple[Any, Any] = super()._prepare_inputs(scheduler_output, *args, **kwargs)
        return prepared

    def _update_states_after_model_execute(
        self, output_token_ids: torch.Tensor, scheduler_output: SchedulerOutput
    ) -> None:
        if self.speculative_config is None or self.aligned_states is None:
            super()._update_states_after_model_execute(output_token_ids, scheduler_output)
            return
        # As vLLM's, which would run postprocess_mamba_fused_kernel here. On CPU there is nothing to
        # wait for, so num_accepted_tokens_event needs no record.
        num_reqs = len(output_token_ids)
        self.num_accepted_tokens.cpu[:num_reqs] = (output_token_ids != -1).sum(dim=1)
        counts = self.input_batch.num_accepted_tokens_cpu
        counts[:num_reqs] = self.num_accepted_tokens.np[:num_reqs]
        self._copy_states_after_step(self.aligned_states, scheduler_output, num_reqs)

    def _copy_states_before_step(
        self, states: AlignedStates, scheduler_output: SchedulerOutput
    ) -> None:
        """Take the state of every request that leaves its running block along."""
        cleanup_mamba_state_idx(scheduler_output, self.mamba_state_idx)
        for row, req_id in enumerate(self.input_batch.req_ids):
            request = self.requests[req_id]
            copy = copy_before_step(
                self.mamba_state_idx.get(req_id),
                request.num_computed_tokens,
                scheduler_output.num_scheduled_tokens[req_id],
                int(self.input_batch.num_accepted_tokens_cpu[row]),
                states.block_size,
            )
            if copy is not None:
                states.copy(request.block_ids, copy)

    def _copy_states_after_step(
        self, states: AlignedStates, scheduler_output: SchedulerOutput, num_reqs: int
    ) -> None:
        """Leave a state behind in every block that the kept tokens of a step filled."""
        counts = self.input_batch.num_accepted_tokens_cpu
        for row, req_id in enumerate(self.input_batch.req_ids[:num_reqs]):
            request = self.requests[req_id]
            copy = copy_after_step(
                self.mamba_state_idx[req_id],
                request.num_computed_tokens,
                scheduler_output.num_scheduled_tokens[req_id],
                len(scheduler_output.scheduled_spec_decode_tokens.get(req_id, ())),
                int(counts[row]),
                states.block_size,
            )
            if copy is not None:
                states.copy(request.block_ids, copy)
                if copy.source == copy.target:
                    counts[row] = 1
