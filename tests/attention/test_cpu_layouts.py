# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from ascend_gdn.attention.cpu_layouts import ChunkLayout

from ..fla.cpu.reference import make_chunk

LENGTHS = st.lists(st.sampled_from([1, 2, 3, 63, 64, 65, 128, 200]), min_size=1, max_size=6)


def rows_of(lengths: list[int], layout: ChunkLayout) -> list[tuple[int, int]]:
    """(sequence, chunk) of each row: the first chunk of every sequence, then the second, ..."""
    order = range(len(lengths)) if layout.seq_order is None else layout.seq_order.tolist()
    chunks = range(-(-max(lengths) // 64))
    return [(seq, chunk) for chunk in chunks for seq in order if lengths[seq] > 64 * chunk]


@given(LENGTHS)
def test_places_hold_their_sequences_tokens(lengths: list[int]) -> None:
    layout = make_chunk(lengths).layout
    starts = [sum(lengths[:seq]) for seq in range(len(lengths))]
    width = layout.chunk_size
    assert width == (16 if max(lengths) <= 16 else 64)
    for row, (seq, chunk) in enumerate(rows_of(lengths, layout)):
        for place in range(width):
            token = starts[seq] + chunk * width + place
            end = starts[seq] + lengths[seq]
            found = row * width + place
            if layout.token_index is not None:
                assert layout.token_rows is not None
                if token < end:
                    assert layout.token_rows[token] == found
                found = int(layout.token_index[found])
            assert found == min(token, end - 1)
            if layout.padding is not None:
                assert bool(layout.padding[row, place]) == (token >= end)
            else:
                assert token < end


@given(LENGTHS)
def test_waves_are_slices_over_a_prefix_of_the_order(lengths: list[int]) -> None:
    layout = make_chunk(lengths).layout
    order = list(range(len(lengths)))
    if layout.seq_order is not None:
        order = layout.seq_order.tolist()
    bounds = layout.wave_starts
    assert bounds[0] == 0
    assert bounds[-1] == layout.num_chunks
    for wave, (first, end) in enumerate(pairwise(bounds)):
        assert {seq for seq, n in enumerate(lengths) if n > wave * 64} == set(order[: end - first])


def test_full_chunks_of_one_sequence_need_no_index() -> None:
    layout = make_chunk([192]).layout
    assert layout.token_index is None
    assert layout.token_rows is None
    assert layout.padding is None


@given(LENGTHS)
def test_gather_then_scatter_is_the_identity(lengths: list[int]) -> None:
    layout = make_chunk(lengths).layout
    x = torch.randn(sum(lengths), 3, 2)
    chunks = layout.parts(layout.num_chunks)[0].gather_heads(x)
    assert torch.equal(layout.by_token(chunks.transpose(1, 2).contiguous()), x)


@given(LENGTHS, st.integers(1, 5))
def test_parts_are_whole_waves_and_cover_all_rows(lengths: list[int], max_chunks: int) -> None:
    layout = make_chunk(lengths).layout
    parts = layout.parts(max_chunks)
    assert layout.parts(max_chunks) is parts
    sizes = [size for part in parts for size in part.wave_sizes]
    bounds = layout.wave_starts
    assert sizes == [end - first for first, end in pairwise(bounds)]
    next_row = 0
    for part in parts:
        assert part.rows.start == next_row
        assert part.num_chunks == sum(part.wave_sizes)
        assert part.num_chunks <= max_chunks or len(part.wave_sizes) == 1
        next_row = part.rows.stop
    assert next_row == layout.num_chunks


def test_conv_borders_are_made_once() -> None:
    layout = make_chunk([1, 70]).layout
    assert layout.conv(4) is layout.conv(4)
