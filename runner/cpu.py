# SPDX-License-Identifier: Apache-2.0
"""CPU: vLLM's CPU worker and model runner with step-scoped GDN metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.logger import init_logger
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.platforms import current_platform
from vllm.v1.sample.rejection_sampler import RejectionSampler
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker as VllmCPUWorker
from vllm.v1.worker.mamba_utils import MambaBuffers, cleanup_mamba_state_idx

from ascend_gdn.fla.cpu.gdn import StepCPUGatedDeltaNetAttention
from ascend_gdn.runner.cpu_align import (
    AlignedStates,
    copy_after_step,
    copy_before_step,
    index_only_buffers,
)
from ascend_gdn.runner.cpu_validation import refuse_unsupported_on_cpu
from ascend_gdn.runner.model_runner import StepModelRunnerMixin
from ascend_gdn.runner.upstream.bonus_min_tokens import BonusMinTokensSampler
from ascend_gdn.runner.upstream.cpu_generator_offset import generators_set_aside
from ascend_gdn.runner.upstream.cpu_seeded_sampler import SeededTopKTopPSampler
from ascend_gdn.runner.upstream.logprob_token_ids import LogprobTokenIdsSampler
from ascend_gdn.runner.upstream.moe_activation import ContextFreeSiluAndMul
from ascend_gdn.runner.validation import has_gdn_layers
from ascend_gdn.runner.worker import StepWorkerMixin, check_platform, register_out_of_tree

if TYPE_CHECKING:
    from vllm.config import SpeculativeConfig, VllmConfig
    from vllm.config.model import LogprobsMode
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.outputs import SamplerOutput
    from vllm.v1.sample.sampler import Sampler
    from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers


class StepCPUSampler(LogprobTokenIdsSampler, BonusMinTokensSampler):
    """vLLM's sampler, with what is corrected of it."""

    def __init__(self, logprobs_mode: LogprobsMode, use_fp64_gumbel: bool) -> None:
        super().__init__(logprobs_mode, use_fp64_gumbel)
        self.topk_topp_sampler = SeededTopKTopPSampler(logprobs_mode, use_fp64_gumbel)


class StepCPUModelRunner(StepModelRunnerMixin, CPUModelRunner):
    """vLLM's CPU model runner, opening a GDN step around each metadata build.

    It also does what vLLM leaves to Triton kernels that it does not have on CPU: in align mode, the
    copies of GDN states between blocks.
    """

    aligned_states: AlignedStates | None = None
    """Set in align mode when vLLM has made the KV cache."""
    _mamba_bufs: MambaBuffers | None  # vLLM's
    speculative_config: SpeculativeConfig | None  # vLLM's
    sampler: Sampler  # vLLM's

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sampler = StepCPUSampler(self.sampler.logprobs_mode, self.sampler.use_fp64_gumbel)
        if self.speculative_config is not None:
            self.rejection_sampler = RejectionSampler(
                self.sampler, self.speculative_config, self.device
            )

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

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        batch = self.input_batch
        discarded = self.discard_request_mask.np[: batch.num_reqs]
        with generators_set_aside(batch.generators, discarded):
            return super().sample_tokens(*args, **kwargs)

    def _sample(
        self, logits: torch.Tensor | None, spec_decode_metadata: SpecDecodeMetadata | None
    ) -> SamplerOutput:
        """vLLM's; where it has no answer for some request, without any draft of the step.

        The rejection sampler cannot draw at random on CPU, see below, nor give the logprobs of
        certain tokens (``upstream/logprob_token_ids.py``). The first row of each request is that of
        its next token: to sample from it is right for every request, only no faster than without
        drafts.
        """
        metadata = self.input_batch.sampling_metadata
        without_drafts = not metadata.all_greedy or metadata.logprob_token_ids
        if logits is not None and spec_decode_metadata is not None and without_drafts:
            rows = torch.tensor(spec_decode_metadata.num_draft_tokens) + 1
            logits = logits[spec_decode_metadata.cu_num_sampled_tokens - rows]
            spec_decode_metadata = None
        output: SamplerOutput = super()._sample(logits, spec_decode_metadata)
        return output

    def _dummy_sampler_run(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # The warm-up's speculative half samples at random, which vLLM's CPU rejection sampler
        # cannot (0.23.0: v1/sample/rejection_sampler.py passes USE_FP64_GUMBEL, a parameter that
        # _sample_recovered_tokens_kernel_impl in utils/cpu_triton_utils.py lacks).
        speculative_config, self.speculative_config = self.speculative_config, None
        try:
            return super()._dummy_sampler_run(hidden_states)
        finally:
            self.speculative_config = speculative_config


def advise_dtype(vllm_config: VllmConfig) -> None:
    """Say in the log where another dtype would be many times faster."""
    if vllm_config.model_config.dtype != torch.float32 and not torch.cpu._is_avx512_supported():
        logger.warning(
            "ascend-gdn: this CPU has no AVX-512, and %s is slow on it; float32 is several times "
            "as fast in a prefill: pass --dtype float32.",
            vllm_config.model_config.dtype,
        )


class CPUWorker(StepWorkerMixin, VllmCPUWorker):
    """``--worker-cls ascend_gdn.runner.CPUWorker``."""

    device_type = "cpu"

    def __init__(self, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:
        check_platform(self.device_type, current_platform.device_type)
        if has_gdn_layers(vllm_config):
            refuse_unsupported_on_cpu(vllm_config)
        super().__init__(vllm_config, *args, **kwargs)
        if self.has_gdn_layers:
            register_out_of_tree(ContextFreeSiluAndMul, SiluAndMul)
            advise_dtype(vllm_config)

    def gdn_layer_cls(self) -> type[StepCPUGatedDeltaNetAttention]:
        return StepCPUGatedDeltaNetAttention

    def make_model_runner(self) -> StepCPUModelRunner:
        return StepCPUModelRunner(self.vllm_config, torch.device("cpu"))
