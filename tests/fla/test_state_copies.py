# SPDX-License-Identifier: Apache-2.0
"""The states that a step leaves behind, in Triton's interpreter: equal to copies one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ascend_gdn.fla.state_copies import StateLayout

from .interpreted_state_copies import interpreted
from .state_copies import States, Step, assert_equal, reference


def test_equal_to_copies_one_by_one():
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    steps = []
    for block_size, num_spec, columns, dtype, dim_first in (
        (4, 3, 6, torch.bfloat16, False),
        (4, 1, 6, torch.float32, True),
        (16, 3, 1300, torch.bfloat16, False),  # more columns than a program copies at once
        (16, 7, 40, torch.bfloat16, True),
        (1088, 3, 64, torch.float32, False),
    ):
        step = Step.draw(random, 20, block_size, num_spec)
        words = 2 * columns
        states = States.draw(step.num_blocks, 3 + num_spec, columns, words, dtype, dim_first)
        steps.append((step, states))
    overlaps = 0
    for (step, before), (states, counts) in zip(steps, interpreted(steps), strict=True):
        expected, expected_counts, within = reference(step, before)
        assert_equal(states, expected)
        assert counts.tolist() == expected_counts.tolist()
        overlaps += within
    assert overlaps > 10


def test_states_that_it_cannot_copy_are_refused():
    window, state = torch.zeros(2, 4, 8), torch.zeros(2, 3, 5)
    StateLayout.of([window], [state])
    for windows, recurrent, message in (
        ([window, window[:, :3]], [state, state], "expected all layers alike"),
        ([window.double()], [state], "expected elements of 2 or 4 bytes"),
        ([window], [state[:, 0].to(torch.float16)], "and whole words"),
        ([window], [state.transpose(1, 2)], "expected each contiguous"),
    ):
        with pytest.raises(ValueError, match=message):
            StateLayout.of(windows, recurrent)
