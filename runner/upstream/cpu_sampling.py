# SPDX-License-Identifier: Apache-2.0
"""Sampling on CPU: without drafts where vLLM's rejection sampler has no answer.

The rejection sampler cannot draw at random on CPU: v1/sample/rejection_sampler.py passes
``USE_FP64_GUMBEL``, a parameter that ``_sample_recovered_tokens_kernel_impl`` in
utils/cpu_triton_utils.py lacks; nor can it give the logprobs of certain tokens
(``logprob_token_ids.py``). A warm-up with drafts, and the first request that asks for either, end
the engine. Here are the sampler's other corrections, too: a file each.

Versions: vLLM 0.23.0. Delete when that function takes the parameter.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.config.model import LogprobsMode
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample.rejection_sampler import RejectionSampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from ascend_gdn.runner.base import Base
from ascend_gdn.runner.upstream.bonus_min_tokens import BonusMinTokensSampler
from ascend_gdn.runner.upstream.cpu_generator_offset import generators_set_aside
from ascend_gdn.runner.upstream.cpu_seeded_sampler import SeededTopKTopPSampler
from ascend_gdn.runner.upstream.logprob_token_ids import LogprobTokenIdsSampler


class StepCPUSampler(LogprobTokenIdsSampler, BonusMinTokensSampler):
    """vLLM's sampler, with what is corrected of it."""

    def __init__(self, logprobs_mode: LogprobsMode, use_fp64_gumbel: bool) -> None:
        super().__init__(logprobs_mode, use_fp64_gumbel)
        self.topk_topp_sampler = SeededTopKTopPSampler(logprobs_mode, use_fp64_gumbel)


class CPUSamplingMixin(Base):
    """Put it before vLLM's CPU model runner in the bases."""

    speculative_config: Any  # vLLM's, as the sampler
    sampler: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sampler = StepCPUSampler(self.sampler.logprobs_mode, self.sampler.use_fp64_gumbel)
        if self.speculative_config is not None:
            self.rejection_sampler = RejectionSampler(
                self.sampler, self.speculative_config, self.device
            )

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        batch = self.input_batch
        discarded = self.discard_request_mask.np[: batch.num_reqs]
        with generators_set_aside(batch.generators, discarded):
            return super().sample_tokens(*args, **kwargs)

    def _sample(
        self, logits: torch.Tensor | None, spec_decode_metadata: SpecDecodeMetadata | None
    ) -> SamplerOutput:
        """vLLM's; where it has no answer for some request, without any draft of the step.

        The first row of each request is that of its next token: to sample from it is right for
        every request, only no faster than without drafts.
        """
        metadata = self.input_batch.sampling_metadata
        without_drafts = not metadata.all_greedy or metadata.logprob_token_ids
        if logits is not None and spec_decode_metadata is not None and without_drafts:
            rows = torch.tensor(spec_decode_metadata.num_draft_tokens) + 1
            logits = logits[spec_decode_metadata.cu_num_sampled_tokens - rows]
            spec_decode_metadata = None
        return super()._sample(logits, spec_decode_metadata)

    def _dummy_sampler_run(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # The warm-up's speculative half samples at random.
        speculative_config, self.speculative_config = self.speculative_config, None
        try:
            return super()._dummy_sampler_run(hidden_states)
        finally:
            self.speculative_config = speculative_config
