# SPDX-License-Identifier: Apache-2.0
"""The device fill, in Triton's interpreter: equal to the host fill, padding included."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_gdn.attention.chunk_plan import fill_chunk_tables, fill_cu_seqlens
from ascend_gdn.attention.table_layout import TableLayout, cumsum_block_size

from .interpreted_fill import GuardedLayout, InterpretedFill
from .reference import reference_tables

POISON = -7_777_777
MADE = (
    "chunk_indices_chunk64",
    "chunk_offsets_chunk64",
    "update_chunk_offsets_chunk64",
    "final_chunk_indices_chunk64",
    "chunk_indices_large_block",
    "block_indices_cumsum",
)
"""The tables that the kernel makes."""


@pytest.fixture(scope="module")
def fill() -> Iterator[InterpretedFill]:
    with InterpretedFill() as fill:
        yield fill


def assert_equal_to_host_and_reference(
    fill: InterpretedFill, layout: TableLayout, lengths: list[int]
) -> None:
    tokens = np.array(lengths, dtype=np.int32)
    sent = np.full(layout.num_elements, POISON, dtype=np.int32)
    rows = fill_cu_seqlens(sent, host_views(sent, layout), layout, tokens)
    # On the device is what the step before left, and what the copy brought.
    place = layout.places["cu_seqlens"]
    before = np.full(layout.num_elements, POISON, dtype=np.int32)
    before[place] = sent[place]
    after = fill(layout, before.copy(), len(lengths))

    by_host = np.full(layout.num_elements, POISON, dtype=np.int32)
    tables = host_views(by_host, layout)
    assert fill_chunk_tables(by_host, tables, layout, tokens) == rows
    expected = before.copy()  # all else stays as it was
    for name in MADE:
        expected[layout.places[name]] = by_host[layout.places[name]]
    np.testing.assert_array_equal(after, expected)

    made = host_views(after, layout)
    for name, values in reference_tables(lengths, layout.cumsum_block).items():
        np.testing.assert_array_equal(made[name][: len(values)], values, err_msg=name)


def host_views(buffer: np.ndarray, layout: TableLayout) -> dict[str, np.ndarray]:
    return layout.host_views(torch.from_numpy(buffer))


LENGTH = st.one_of(
    st.integers(1, 300),
    st.integers(1, 6000),
    st.sampled_from([1, 63, 64, 65, 128, 1215, 1216, 1217, 2432, 2433, 4096]),
)


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(LENGTH, min_size=1, max_size=24),
    spare_seqs=st.integers(0, 5),
    spare_tokens=st.integers(0, 500),
    heads=st.sampled_from([1, 3, 4, 8, 16, 32, 64]),
)
def test_random_batches(fill, lengths, spare_seqs, spare_tokens, heads):
    layout = GuardedLayout(
        len(lengths) + spare_seqs, sum(lengths) + spare_tokens, 2, cumsum_block_size(heads)
    )
    assert_equal_to_host_and_reference(fill, layout, lengths)


@pytest.mark.parametrize(
    ("lengths", "max_seqs", "max_tokens", "cumsum_block"),
    [
        ([1], 1, 1, 1),
        ([1], 256, 8192, 128),
        ([1000], 4, 1000, 1),  # blocks of one token: rows in several tiles
        ([64] * 128, 128, 8192, 128),  # full: not one row of padding
        ([1216] * 5, 5, 6080, 1024),
        ([64, 128, 1216, 2432], 8, 4096, 64),
        ([1] * 300 + [64 * 300], 301, 64 * 300 + 300, 64),  # a tile's first row is a sequence's
        ([*(1 + seq % 33 for seq in range(1023)), 3000], 1024, 21_000, 4096),
        ([1 << 20], 1, 1 << 20, 4096),
        ([1, (1 << 20) - 2, 1], 3, 1 << 20, 128),
        ([70, 9], 510, 4096, 2048),  # the offsets fill a tile
        ([70, 9], 511, 4096, 2048),  # and take one more
    ],
    ids=lambda value: f"{len(value)}x{value[0]}" if isinstance(value, list) else str(value),
)
def test_edges(fill, lengths, max_seqs, max_tokens, cumsum_block):
    layout = GuardedLayout(max_seqs, max_tokens, num_groups=3, cumsum_block=cumsum_block)
    assert_equal_to_host_and_reference(fill, layout, lengths)


def test_no_sequences_at_all(fill):
    """The launch that compiles the kernel: everything is padding."""
    layout = TableLayout(max_seqs=4, max_tokens=256, num_groups=1, cumsum_block=64)
    made = fill(layout, np.zeros(layout.num_elements, dtype=np.int32), 0)
    end = layout.num_chunk_tables
    np.testing.assert_array_equal(made[:end], layout.padding[:end])


def test_a_refill_leaves_nothing_of_the_step_before(fill):
    layout = TableLayout(max_seqs=64, max_tokens=8192, num_groups=1, cumsum_block=128)
    buffer = np.full(layout.num_elements, POISON, dtype=np.int32)
    for lengths in ([128] * 64, [70, 3]):
        tokens = np.array(lengths, dtype=np.int32)
        fill_cu_seqlens(buffer, host_views(buffer, layout), layout, tokens)
        buffer = fill(layout, buffer, len(lengths))
    by_host = np.full(layout.num_elements, POISON, dtype=np.int32)
    fill_chunk_tables(by_host, host_views(by_host, layout), layout, tokens)
    for name, place in layout.places.items():
        np.testing.assert_array_equal(buffer[place], by_host[place], err_msg=name)


def test_the_comparison_can_fail(fill):
    layout = GuardedLayout(max_seqs=4, max_tokens=256, num_groups=1, cumsum_block=64)

    def wrong_by_one_padding_row(layout, buffer, num_seqs):
        made = fill(layout, buffer, num_seqs)
        made[layout.places["block_indices_cumsum"].stop - 1] += 1
        return made

    with pytest.raises(AssertionError, match="Arrays are not equal"):
        assert_equal_to_host_and_reference(wrong_by_one_padding_row, layout, [70, 3])
