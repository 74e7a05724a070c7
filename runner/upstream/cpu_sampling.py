# SPDX-License-Identifier: Apache-2.0
"""Sampling on CPU: without drafts where vLLM's rejection sampler has no answer.

It has none for the logprobs of certain tokens (``logprob_token_ids.py``): a request for them beside
drafts ends the engine. Here the sampler's other corrections are put in their places, too.

Versions: vLLM 0.23.0, 0.30.0. Delete when the last of them is gone.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from ascend_gdn.runner.base import Base
from ascend_gdn.runner.upstream.bonus_min_tokens import BonusMinTokensSampler
from ascend_gdn.runner.upstream.cpu_generator_offset import generators_set_aside
from ascend_gdn.runner.upstream.logprob_token_ids import LogprobTokenIdsSampler


class StepCPUSampler(LogprobTokenIdsSampler, BonusMinTokensSampler):
    """vLLM's sampler, with what is corrected of it."""


class CPUSamplingMixin(Base):
    """Put it before vLLM's CPU model runner in the bases."""

    sampler_cls: ClassVar[type[Sampler]] = StepCPUSampler
    speculative_config: Any  # vLLM's, as the sampler
    sampler: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sampler = self.sampler_cls(self.sampler.logprobs_mode, self.sampler.use_fp64_gumbel)
        if self.speculative_config is not None:
            self.rejection_sampler.sampler = self.sampler

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        batch = self.input_batch
        discarded = self.discard_request_mask.np[: batch.num_reqs]
        with generators_set_aside(batch.generators, discarded):
            return super().sample_tokens(*args, **kwargs)

    def has_no_answer(self, metadata: SamplingMetadata) -> bool:
        """Whether vLLM's rejection sampler fails for some request of the batch."""
        return bool(metadata.logprob_token_ids)

    def _sample(
        self, logits: torch.Tensor | None, spec_decode_metadata: SpecDecodeMetadata | None
    ) -> SamplerOutput:
        """vLLM's; where it has no answer for some request, without any draft of the step.

        The first row of each request is that of its next token: to sample from it is right for
        every request, only no faster than without drafts.
        """
        without_drafts = self.has_no_answer(self.input_batch.sampling_metadata)
        if logits is not None and spec_decode_metadata is not None and without_drafts:
            rows = torch.tensor(spec_decode_metadata.num_draft_tokens) + 1
            logits = logits[spec_decode_metadata.cu_num_sampled_tokens - rows]
            spec_decode_metadata = None
        return super()._sample(logits, spec_decode_metadata)
