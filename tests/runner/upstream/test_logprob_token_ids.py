# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from vllm.v1.sample.sampler import Sampler

from ascend_gdn.runner.upstream.logprob_token_ids import LogprobTokenIdsSampler

from .sampling import greedy

LOGITS = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
LOGPROBS = LOGITS.log_softmax(-1)


def rows_of(sampler: Sampler, **asked) -> list[dict[int, float]]:
    found = sampler(LOGITS.clone(), greedy(3, **asked)).logprobs_tensors
    return [
        dict(zip(ids, values, strict=True))
        for ids, values in zip(
            found.logprob_token_ids.tolist(), found.logprobs.tolist(), strict=True
        )
    ]


def is_top(found: dict[int, float], row: int, count: int) -> bool:
    top = LOGPROBS[row].topk(count)
    expected = dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return {token: found.get(token) for token in expected} == expected


def test_each_row_is_what_its_request_asks_for():
    rows = rows_of(LogprobTokenIdsSampler(), max_num_logprobs=4, logprob_token_ids={1: [5, 7]})
    assert is_top(rows[0], 0, 4) and is_top(rows[2], 2, 4)
    assert [rows[1][token] for token in (5, 7)] == LOGPROBS[1, [5, 7]].tolist()


def test_one_kind_alone_is_as_upstream():
    for asked in ({"max_num_logprobs": 3}, {"logprob_token_ids": {1: [5, 7]}}):
        assert rows_of(LogprobTokenIdsSampler(), **asked) == rows_of(Sampler(), **asked)


def test_upstream_takes_the_others_away():
    # Fails when the correction can go.
    rows = rows_of(Sampler(), max_num_logprobs=4, logprob_token_ids={1: [5, 7]})
    assert not is_top(rows[0], 0, 4)
