# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import (
    BatchUpdate,
    LogitsProcessors,
    MinTokensLogitsProcessor,
)
from vllm.v1.sample.sampler import Sampler

from ascend_gdn.runner.upstream.bonus_min_tokens import BonusMinTokensSampler

from .sampling import greedy

STOP, OTHER, MIN_TOKENS = 4, 3, 6


def bonus(sampler: Sampler, said: int, drafts: int) -> int:
    """The bonus token of a request with ``said`` tokens, if the model would stop.

    It is in the second row; the first one's has no ``min_tokens``.
    """
    params = SamplingParams(min_tokens=MIN_TOKENS, stop_token_ids=[STOP])
    processor = MinTokensLogitsProcessor(None, torch.device("cpu"), False)
    processor.update_state(
        BatchUpdate(2, removed=[], moved=[], added=[(1, params, [0], [OTHER] * said)])
    )
    logits = torch.zeros(2, 8)
    logits[:, STOP], logits[:, OTHER] = 2, 1
    metadata = greedy(
        2,
        spec_token_ids=[[OTHER], [OTHER] * drafts],
        logitsprocs=LogitsProcessors([processor]),
    )
    first, second = sampler(logits, metadata, predict_bonus_token=True).sampled_token_ids.flatten()
    assert first == STOP
    return int(second)


@pytest.mark.parametrize("said", range(8))
@pytest.mark.parametrize("drafts", range(4))
def test_the_drafts_before_it_count(said: int, drafts: int):
    expected = STOP if said + drafts >= MIN_TOKENS else OTHER
    assert bonus(BonusMinTokensSampler(), said, drafts) == expected


def test_upstream_does_not_count_them():
    # Fails when the correction can go.
    assert bonus(Sampler(), said=4, drafts=3) == OTHER
