# SPDX-License-Identifier: Apache-2.0
"""Speculative requests of unequal lengths against a reference that takes one at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ascend_gdn.attention.spec_rows import ragged_spec_rows

from .spec_reference import recurrent_arguments


@given(
    width=st.integers(2, 6),
    requests=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12),
)
def test_equals_the_reference(width: int, requests: list[tuple[int, int]]):
    lengths = [min(length, width) for length, _ in requests]
    accepted = [min(kept, width) for _, kept in requests]
    blocks = 1 + np.arange(len(requests) * width, dtype=np.int32).reshape(-1, width)
    found = ragged_spec_rows(
        blocks, np.array(lengths, dtype=np.int32), np.array(accepted, dtype=np.int32)
    )
    expected = recurrent_arguments(blocks.tolist(), lengths, accepted)
    assert found.state_indices.tolist() == expected.state_indices
    assert found.num_accepted_tokens.tolist() == expected.start_tokens
    moves = zip(found.moved_from.tolist(), found.moved_to.tolist(), strict=True)
    assert list(moves) == expected.moves
    assert found.state_indices.dtype == found.num_accepted_tokens.dtype == np.int32


def test_a_request_that_kept_more_than_it_has_now_starts_at_a_moved_state():
    blocks = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=np.int32)
    rows = ragged_spec_rows(blocks, np.array([4, 2]), np.array([2, 4]))
    assert rows.state_indices.tolist() == [1, 2, 3, 4, 5, 6]
    assert rows.num_accepted_tokens.tolist() == [2, 1]
    assert (rows.moved_from.tolist(), rows.moved_to.tolist()) == ([8], [5])
