# SPDX-License-Identifier: Apache-2.0
"""What the demo decides: agreement, counts, and what it prints of a stream."""

import math

import pytest
import torch

from demo import DemoFailed, check, stats_failure
from demo_reference import Agreement, compare
from demo_streams import Request, make_requests, printable

GOOD_STATS = {"prefill_steps": 4, "plans_built": 4, "plans_reused": 8, "host_us": 100.0}
GOOD = Agreement(1e-6, 1e-7, 32, 32)
RIGHT = Request([5], [6, 2], 0.0, token_ids=[6, 2])


def logits_choosing(tokens, vocabulary=10):
    """Logits whose argmax at each position is the next of ``tokens``."""
    logits = torch.randn(len(tokens), vocabulary, generator=torch.Generator().manual_seed(0))
    logits[torch.arange(len(tokens)), torch.tensor(tokens)] = 5.0
    return logits


def test_compare_finds_equal_answers_equal():
    prompt, generated = [1, 2, 3], [4, 5]
    logits = logits_choosing([9, 9, 4, 5])
    logprobs = logits.log_softmax(-1)
    exact = [logprobs[0, 2].item(), logprobs[1, 3].item()]
    assert compare(logits, prompt, generated, exact) == Agreement(0.0, 0.0, 2, 2)


def test_compare_sees_one_wrong_logprob_and_one_wrong_token():
    prompt, generated = [1, 2, 3], [4, 6]
    logits = logits_choosing([9, 9, 4, 5])
    logprobs = logits.log_softmax(-1)
    found = compare(logits, prompt, generated, [logprobs[0, 2].item(), logprobs[1, 3].item() + 0.5])
    assert found.max_difference == pytest.approx(0.5)
    assert found.mean_difference == pytest.approx(0.25)
    assert (found.greedy_matches, found.greedy_tokens) == (1, 2)


def test_compare_one_token_prompt_has_only_greedy_tokens():
    assert compare(logits_choosing([4, 5]), [1], [4, 5], []) == Agreement(0.0, 0.0, 2, 2)


@pytest.mark.parametrize(
    ("agreement", "reason"),
    [
        (Agreement(2e-3, 1e-4, 32, 32), "differ by 2.00e-03"),
        (Agreement(math.nan, math.nan, 32, 32), "differ by nan"),
        (Agreement(0.0, 0.0, 31, 32), "part after 31 of 32"),
    ],
)
def test_float32_must_agree_and_bfloat16_need_not(agreement, reason):
    with pytest.raises(DemoFailed, match=reason):
        check([RIGHT], [GOOD, agreement], GOOD_STATS, "float32")
    check([RIGHT], [GOOD, agreement], GOOD_STATS, "bfloat16")


def test_check_passes_good_runs_with_and_without_counts():
    check([RIGHT], [GOOD], GOOD_STATS, "float32")
    check([RIGHT], [GOOD], None, "float32")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prefill_steps": 0, "plans_built": 0}, "no prefill step"),
        ({"plans_built": 12}, "12 plans for 4 prefill steps"),
        ({"plans_reused": 0}, "no plan was shared"),
    ],
)
def test_counts_that_cannot_be_right(change, reason):
    assert stats_failure(GOOD_STATS) is None
    assert reason in stats_failure(GOOD_STATS | change)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_answer_fails(dtype):
    wrong = Request([5], [6, 2], 0.0, token_ids=[7, 2])
    with pytest.raises(DemoFailed, match="1 of 2 answers are wrong"):
        check([RIGHT, wrong], [GOOD], GOOD_STATS, dtype)


def test_requests_come_in_two_waves_of_the_same_lengths():
    requests = make_requests([8, 64], gap=1.0, seed=0)
    assert [(len(r.prompt), r.delay) for r in requests] == [(8, 0), (64, 0), (8, 1), (64, 1)]
    assert requests[1].prompt != requests[3].prompt
    assert not any(request.right for request in requests)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain", "plain"), ("a\x1b[2Jb\n\N{REPLACEMENT CHARACTER}", "a·[2Jb··"),
     ("0123456789", "…3456789")],
)  # fmt: skip
def test_printable(text, shown):
    assert printable(text, 8) == shown
