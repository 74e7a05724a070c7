# SPDX-License-Identifier: Apache-2.0
"""With MTP, ``min_tokens`` forbids the end of an answer that has them already.

The token after a step's last draft, the bonus token, is sampled with the stop tokens masked if the
request had not its ``min_tokens`` before the step: ``MinTokensLogitsProcessor.apply``
(v1/sample/logits_processor/builtin.py:234) does not count the drafts, which its
``apply_with_spec_decode`` does. An answer that ends just there goes on with other tokens than
without drafts, silently.

Versions: vLLM 0.23.0, 0.30.0. Delete when the bonus token's mask counts the drafts before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from vllm.v1.sample.logits_processor import LogitsProcessors, MinTokensLogitsProcessor
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler


class BonusMinTokens(MinTokensLogitsProcessor):
    """``counted``, for the bonus tokens of a step in which each row has ``drafts``."""

    def __init__(self, counted: MinTokensLogitsProcessor, drafts: Sequence[Sequence[int]]) -> None:
        self.forbidden = [
            (row, list(stop_ids))
            for row, (min_tokens, output_ids, stop_ids, *_) in counted.min_toks.items()
            if len(output_ids) + len(drafts[row]) < min_tokens
        ]

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for row, stop_ids in self.forbidden:
            before = logits[row, stop_ids]
            logits[row, stop_ids] = -torch.inf
            if logits[row].isneginf().all():  # a grammar leaves nothing else; so vLLM 0.30.0
                logits[row, stop_ids] = before
        return logits


class BonusMinTokensSampler(Sampler):
    """vLLM's sampler, which the rejection sampler asks for the bonus tokens."""

    def apply_logits_processors(
        self, logits: torch.Tensor, sampling_metadata: SamplingMetadata, predict_bonus_token: bool
    ) -> torch.Tensor:
        drafts = sampling_metadata.spec_token_ids
        if predict_bonus_token and drafts is not None:
            processors = LogitsProcessors(
                BonusMinTokens(each, drafts) if isinstance(each, MinTokensLogitsProcessor) else each
                for each in sampling_metadata.logitsprocs.all
            )
            sampling_metadata = replace(sampling_metadata, logitsprocs=processors)
        return super().apply_logits_processors(logits, sampling_metadata, predict_bonus_token)
