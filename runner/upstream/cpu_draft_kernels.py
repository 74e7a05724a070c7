# SPDX-License-Identifier: Apache-2.0
"""Drafts on CPU: some of vLLM's stand-ins for Triton's kernels are put where nothing looks.

``_postprocess_triton`` (v1/worker/cpu_model_runner.py) gives them to names of v1/spec_decode/
utils.py and v1/sample/rejection_sampler.py. But for the rejection sampler's and for the step from
one draft to the next those names are read once, when the modules are imported: the launchers that
are called hold what was there then. The second draft of a step, and the first draft that is
verified, end the engine with "Cannot inspect kernel parameters for function".

Versions: vLLM 0.30.0. Delete when it gives them to ``_eagle_step_slot_mapping_metadata`` and
``_rejection_greedy_sample``, as it does to the launchers of drafting's first step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from vllm.utils.cpu_triton_utils import (
    eagle_step_slot_mapping_metadata_kernel as eagle_step,
)
from vllm.utils.cpu_triton_utils import rejection_greedy_sample_kernel as greedy_sample
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.rejection_sampler import PLACEHOLDER_TOKEN_ID, RejectionSampler
from vllm.v1.spec_decode.eagle import EagleProposer
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata
from vllm.v1.spec_decode.utils import PADDING_SLOT_ID

from ascend_gdn.runner.base import Base


class CPUProposer(EagleProposer):
    """vLLM's drafter; the step to the next draft by the kernel for CPU."""

    def _update_positions_dependent_metadata(
        self,
        positions: torch.Tensor,
        common_attn_metadata: CommonAttentionMetadata,
        batch_size: int,
        input_batch_size: int,
        block_size: int,
    ) -> torch.Tensor:
        own = self.mrope_positions if self.uses_mrope else self.positions[None]
        common, table = common_attn_metadata, common_attn_metadata.block_table_tensor
        slots = self._slot_mapping_buffer[:input_batch_size].fill_(PADDING_SLOT_ID)
        eagle_step[(batch_size,)](
            positions[0] if self.uses_mrope else positions,
            table,
            table.stride(0),
            common.seq_lens,
            own[0, :batch_size],
            slots,
            block_size,
            self.max_model_len,
            table.shape[1],
            PADDING_SLOT_ID,
        )
        own[1:, :batch_size] = own[0, :batch_size]
        common.slot_mapping = slots[:batch_size]
        common.max_seq_len = min(common.max_seq_len + 1, self.max_model_len)
        if common.seq_lens_cpu_upper_bound is not None:
            common.seq_lens_cpu_upper_bound += 1
        return own[:, :batch_size] if self.uses_mrope else own[0, :batch_size]


class GreedyRejectionSampler(RejectionSampler):
    """vLLM's rejection sampler for batches in which nothing is drawn at random."""

    def forward(
        self,
        metadata: SpecDecodeMetadata,
        draft_probs: torch.Tensor | None,
        logits: torch.Tensor,
        sampling_metadata: SamplingMetadata,
    ) -> SamplerOutput:
        """As vLLM's: a request's drafts up to the first wrong one, and the token after them."""
        processed, most = self.is_processed_logprobs_mode, sampling_metadata.max_num_logprobs
        bonus = self.sampler(
            logits=logits[metadata.bonus_logits_indices],
            sampling_metadata=replace(sampling_metadata, max_num_logprobs=-1),
            predict_bonus_token=True,
            logprobs_mode_override="processed_logits" if processed else "raw_logits",
        )
        raw = logits[metadata.target_logits_indices].float()
        targets = self.apply_logits_processors(raw.clone(), sampling_metadata, metadata)
        tokens = torch.full(
            (len(metadata.num_draft_tokens), metadata.max_spec_len + 1),
            PLACEHOLDER_TOKEN_ID,
            dtype=torch.int32,
        )
        greedy_sample[(len(tokens),)](
            tokens,
            metadata.cu_num_draft_tokens,
            metadata.draft_token_ids,
            targets.argmax(dim=-1),
            bonus.sampled_token_ids,
            None,
            metadata.max_spec_len,
            None,
            None,
        )
        logprobs = None
        if most is not None:
            ranked, last = targets if processed else raw, bonus.logprobs_tensors.logprobs
            logprobs = self._get_logprobs_tensors(most, metadata, logits, ranked, last, tokens)
        return SamplerOutput(sampled_token_ids=tokens, logprobs_tensors=logprobs)


class CPUDraftKernelsMixin(Base):
    """Put it before vLLM's CPU model runner in the bases."""

    speculative_config: Any  # vLLM's, as the drafter and the sampler
    drafter: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.speculative_config
        if config is not None:
            self.rejection_sampler = GreedyRejectionSampler(self.sampler, config, self.device)
            if type(self.drafter) is EagleProposer:
                self.drafter = CPUProposer(self.vllm_config, self.device, self)
