# SPDX-License-Identifier: Apache-2.0
"""Decode or prefill, request by request."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ascend_gdn.attention.batch_split import split_batch


def split(
    lengths: list[int],
    context: list[int],
    drafts: list[int] | None = None,
    accepted: list[int] | None = None,
):
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    draft_tokens = None if drafts is None else np.array(drafts, dtype=np.int32)
    return split_batch(
        starts,
        np.add(lengths, context).astype(np.int32),
        draft_tokens,
        # The runner's buffer is longer than the batch; what is behind it is stale.
        None if accepted is None else np.array([*accepted, 4, 4], dtype=np.int32),
    )


@pytest.mark.parametrize(
    ("lengths", "context", "rows", "decodes"),
    [
        pytest.param([1, 1, 1], [5, 6, 7], [0, 1, 2], 3, id="decodes"),
        pytest.param([100], [0], [0], 0, id="prefill"),
        pytest.param([1, 1, 100], [5, 6, 0], [0, 1, 2], 2, id="mixed"),
        pytest.param([1], [0], [0], 0, id="one-token prompt is a prefill"),
        pytest.param([1], [64], [0], 1, id="one-token remainder with state may decode"),
        pytest.param([1, 30, 1], [9, 64, 0], [0, 1, 2], 1, id="one-token prompt behind a chunk"),
        pytest.param([128, 0, 128], [0, 0, 0], [0, 2], 0, id="zero length in the middle"),
        pytest.param([1, 70, 0, 0], [3, 0, 0, 0], [0, 1], 1, id="padded rows"),
        pytest.param([0, 1, 70], [3, 3, 0], [1, 2], 1, id="zero length in front"),
        pytest.param([0, 0], [0, 0], [], 0, id="idle step"),
        pytest.param([1, 0], [4, 0], [0], 1, id="padded decode"),
    ],
)
def test_cases(lengths, context, rows, decodes):
    result = split(lengths, context)
    assert np.arange(len(lengths))[result.non_spec.rows].tolist() == rows
    assert result.non_spec.lengths.tolist() == [lengths[row] for row in rows]
    assert result.non_spec.context_lens.tolist() == [context[row] for row in rows]
    assert result.spec is None
    assert result.num_decodes == decodes
    assert result.num_prefills == len(rows) - decodes
    assert result.num_prefill_tokens == sum(lengths[row] for row in rows[decodes:])


@pytest.mark.parametrize("drafts", [None, [3, 3, -1, -1]])
def test_with_nothing_but_padding_behind_them_the_rows_are_a_range(drafts):
    result = split([4, 4, 0, 0], [9, 9, 0, 0], drafts)
    requests = result.non_spec if drafts is None else result.spec
    assert requests.rows == slice(0, 2)
    assert requests.lengths.tolist() == [4, 4]
    assert result.spec_first == (drafts is not None)


def test_everything_beside_speculative_requests_prefills():
    result = split([4, 1, 4, 0, 100], [50, 60, 70, 0, 0], drafts=[3, -1, 3, -1, -1])
    assert result.spec.rows.tolist() == [0, 2]
    assert result.spec_mask.tolist() == [True, False, True, False, False]
    assert result.num_spec_tokens == 8
    assert result.non_spec.rows.tolist() == [1, 4]
    assert (result.num_decodes, result.num_prefills, result.num_prefill_tokens) == (0, 2, 101)


@pytest.mark.parametrize(
    ("lengths", "drafts", "spec", "others", "first"),
    [
        pytest.param([4, 3, 9, 1], [3, 2, -1, -1], [0, 1], [2, 3], True, id="first"),
        pytest.param([9, 4, 3, 1], [-1, 3, 2, -1], [1, 2], [0, 3], False, id="in the middle"),
        pytest.param([4, 3, 0, 9], [3, 2, -1, -1], [0, 1], [3], True, id="first, and an empty one"),
        pytest.param([4, 0, 3, 9], [3, -1, 2, -1], [0, 2], [3], False, id="an empty one between"),
        pytest.param([4, 3], [3, 2], [0, 1], [], True, id="nothing else"),
    ],
)
def test_speculative_requests_first_or_not(lengths, drafts, spec, others, first):
    context = [50 + row for row in range(len(lengths))]
    result = split(lengths, context, drafts)
    for requests, rows in ((result.spec, spec), (result.non_spec, others)):
        assert np.arange(len(lengths))[requests.rows].tolist() == rows
        assert requests.lengths.tolist() == [lengths[row] for row in rows]
        assert requests.context_lens.tolist() == [context[row] for row in rows]
    assert result.spec_first == first
    assert result.num_spec_tokens == sum(lengths[row] for row in spec)
    assert result.num_prefill_tokens == sum(lengths[row] for row in others)


@pytest.mark.parametrize("drafts", [None, [-1, -1, -1], [3, -1, -1]])
def test_a_decode_whose_state_is_not_in_its_first_block_speculates(drafts):
    lengths = [4 if drafts and drafts[0] > 0 else 1, 1, 100]
    result = split(lengths, [50, 60, 0], drafts, accepted=[2, 3, 1])
    assert np.arange(3)[result.spec.rows].tolist() == [0, 1]
    assert result.spec_mask.tolist() == [True, True, False]
    assert np.arange(3)[result.non_spec.rows].tolist() == [2]


def test_accepted_counts_of_one_change_nothing():
    result = split([1, 1, 100], [50, 60, 0], [-1, -1, -1], accepted=[1, 1, 1])
    assert result.spec is None
    assert (result.num_decodes, result.num_prefills) == (2, 1)


@pytest.mark.parametrize("drafts", [[-1, -1], [0, -1]])
def test_without_draft_tokens_nothing_speculates(drafts):
    result = split([1, 100], [50, 0], drafts)
    assert result.spec is None
    assert (result.num_decodes, result.num_prefills) == (1, 1)


@given(st.lists(st.tuples(st.integers(0, 70), st.integers(0, 3)), min_size=1, max_size=30))
def test_no_request_without_state_decodes(batch):
    lengths, context = [row[0] for row in batch], [row[1] for row in batch]
    result = split(lengths, context)
    requests, decodes = result.non_spec, result.num_decodes
    assert (requests.lengths > 0).all()
    assert (requests.lengths[:decodes] == 1).all()
    assert (requests.context_lens[:decodes] > 0).all()
    if result.num_prefills:
        assert requests.lengths[decodes] > 1 or requests.context_lens[decodes] == 0
