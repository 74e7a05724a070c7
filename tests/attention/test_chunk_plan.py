# SPDX-License-Identifier: Apache-2.0
"""Every table of a step equals the plain reference, in buffers that were poisoned first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_gdn.attention.batch_split import split_batch
from ascend_gdn.attention.chunk_plan import fill_chunk_tables
from ascend_gdn.attention.table_layout import TableLayout, cumsum_block_size

from .reference import reference_tables

POISON = -7_777_777
GUARD = 64

EDGE_LENGTHS = [
    [1],
    [63],
    [64],
    [65],
    [1216],
    [1217],
    [64, 128, 1216, 2432],
    [131072],
    [1] * 256,
    [1, 131072, 1],
    list(range(1, 257)),
]


def filled(lengths: list[int], max_seqs: int, max_tokens: int, cumsum_block: int):
    """Tables of ``lengths``, the buffer's guard bands, the rows in use."""
    layout = TableLayout(max_seqs, max_tokens, num_groups=3, cumsum_block=cumsum_block)
    memory = np.full(layout.num_elements + 2 * GUARD, POISON, dtype=np.int32)
    tables, rows = fill(memory[GUARD:-GUARD], layout, lengths)
    return layout, memory, tables, rows


def fill(buffer: np.ndarray, layout: TableLayout, lengths: list[int]):
    tables = layout.host_views(torch.from_numpy(buffer))
    return tables, fill_chunk_tables(buffer, tables, layout, np.array(lengths, dtype=np.int32))


def assert_equal_to_reference(
    lengths: list[int], max_seqs: int, max_tokens: int, block: int
) -> None:
    layout, memory, tables, rows = filled(lengths, max_seqs, max_tokens, block)
    expected = reference_tables(lengths, block)
    for name, values in expected.items():
        table = tables[name]
        np.testing.assert_array_equal(table[: len(values)], values, err_msg=name)
    assert rows.chunk64 == len(expected["chunk_indices_chunk64"])
    assert rows.large_block == len(expected["chunk_indices_large_block"])
    assert rows.cumsum == len(expected["block_indices_cumsum"])
    # Padding rows are defined: offsets stay at the end, block rows name the empty one past the
    # capacity.
    for name in ("cu_seqlens", "chunk_offsets_chunk64", "update_chunk_offsets_chunk64"):
        table = tables[name]
        assert (table[len(lengths) + 1 :] == table[len(lengths)]).all(), name
    for name in ("chunk_indices_chunk64", "chunk_indices_large_block", "block_indices_cumsum"):
        padding = tables[name][len(expected[name]) :]
        assert (padding == (layout.max_seqs, 0)).all(), name
    # Nothing outside the buffer was touched, and no stale value survived in the tables.
    assert (memory[:GUARD] == POISON).all() and (memory[-GUARD:] == POISON).all()
    for name in expected:
        assert not (tables[name] == POISON).any(), name


@settings(max_examples=2000, deadline=None)
@given(
    lengths=st.lists(
        st.one_of(
            st.integers(0, 300),
            st.sampled_from([0, 1, 63, 64, 65, 128, 1215, 1216, 1217, 2432]),
        ),
        min_size=1,
        max_size=40,
    ).filter(any),
    spare_seqs=st.integers(0, 5),
    spare_tokens=st.integers(0, 500),
    heads=st.sampled_from([1, 3, 4, 8, 16, 32]),
)
def test_random_query_start_loc(lengths, spare_seqs, spare_tokens, heads):
    """Sequences of zero length, wherever they are, leave no trace in the tables."""
    assert_equal_to_reference(
        non_empty(lengths),
        np.count_nonzero(lengths) + spare_seqs,
        sum(lengths) + spare_tokens,
        cumsum_block_size(heads),
    )


def non_empty(lengths: list[int]) -> list[int]:
    """What is left of prompts of ``lengths`` tokens once the batch is split."""
    query_start_loc = np.cumsum([0, *lengths]).astype(np.int32)
    split = split_batch(query_start_loc, np.array(lengths, dtype=np.int32), None)
    assert split.num_prefills == np.count_nonzero(lengths)
    assert split.num_prefill_tokens == sum(lengths)
    return split.non_spec.lengths.tolist()


@pytest.mark.parametrize("lengths", [[128, 0, 128], [64, 0, 0], [0, 65, 0, 1, 0]])
def test_zero_lengths_in_front_in_the_middle_and_at_the_end(lengths):
    assert non_empty(lengths) == [length for length in lengths if length]
    assert_equal_to_reference(non_empty(lengths), 8, 1024, 128)


@pytest.mark.parametrize(
    "lengths", EDGE_LENGTHS, ids=lambda lengths: f"{len(lengths)}x{lengths[0]}"
)
def test_edge_batches(lengths):
    assert_equal_to_reference(lengths, max(256, len(lengths)), max(sum(lengths), 8192), 1024)


def test_a_refill_leaves_nothing_of_the_step_before():
    layout = TableLayout(max_seqs=64, max_tokens=8192, num_groups=1, cumsum_block=1024)
    used = np.full(layout.num_elements, POISON, dtype=np.int32)
    fill(used, layout, [128] * 64)
    fill(used, layout, [70, 3])
    fresh = np.full(layout.num_elements, POISON, dtype=np.int32)
    fill(fresh, layout, [70, 3])
    np.testing.assert_array_equal(used, fresh)
