# SPDX-License-Identifier: Apache-2.0
"""Which steps of made-up requests are run; tests/engine has them run, tests/gpu what they do."""

from __future__ import annotations

import pytest

from ascend_gdn.runner.upstream.late_compiles import arrivals, lengths


def kind(number: int) -> int | str:
    """What Triton compiles a kernel of its own for."""
    return 1 if number == 1 else "multiple" if number % 16 == 0 else "other"


@pytest.mark.parametrize("largest", [8192, 3000, 100, 16, 5])
def test_lengths_are_of_all_kinds_up_to_the_largest(largest):
    found = list(lengths(largest, 0))
    assert all(1 <= length <= largest for length in found)
    assert len(found) < 140
    assert set(found) >= set(range(1, min(largest, 16) + 1))
    assert max(found) > largest * 2 / 3


@pytest.mark.parametrize(
    ("experts", "each"), [(512, 10), (256, 8), (128, 8), (64, 6), (60, 4), (32, 10), (8, 2), (2, 2)]
)
@pytest.mark.parametrize("captured", [0, 80, 88, 512])
@pytest.mark.parametrize("bounds", [(65, 96), (97, 128), (129, 512), (513, 767), (3585, 8192)])
def test_experts_meet_all_kinds_of_integers_that_there_are(experts, each, bounds, captured):
    def kinds(lengths):
        return {
            (length * each % 16 == 0, (length * each - experts) % 16 == 0) for length in lengths
        }

    without_graph = range(max(bounds[0], captured + 1), bounds[1] + 1)
    found = [length for length in lengths(8192, captured) if length in without_graph]
    assert kinds(found) == kinds(without_graph)


@pytest.mark.parametrize(
    ("max_seqs", "max_tokens", "max_len"), [(256, 8192, 100), (5, 70, 296), (1, 16, 8), (3, 4, 4)]
)
def test_a_step_is_never_too_large(max_seqs, max_tokens, max_len):
    for each in arrivals(max_seqs, max_tokens, max_len, 64):
        assert len(each.lengths) <= max_seqs
        assert sum(each.lengths) <= max_tokens
        assert all(0 < length <= max_len for length in each.lengths)


@pytest.mark.parametrize("decoded", [1, 4])
def test_each_length_is_a_step_of_its_own_with_drafts_too(decoded):
    """With drafts no decode is of one token, which Triton compiles kernels of their own for."""
    steps, last = [], []
    for each in arrivals(256, 8192, 4096, 512):
        steps.append(len(last) * decoded + sum(each.lengths))
        last = each.lengths
    assert set(steps) >= set(lengths(8192, 512))
