# SPDX-License-Identifier: Apache-2.0
"""Sizes and places of the tables in the packed buffer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ascend_gdn.attention.table_layout import TABLES, TableLayout, cumsum_block_size, max_rows

from .reference import block_indices


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=20),
    block=st.sampled_from([1, 2, 64, 1216]),
)
def test_capacity_bound_holds(lengths, block):
    assert len(block_indices(lengths, block)) <= max_rows(len(lengths), sum(lengths), block)


def test_capacity_bound_is_tight():
    # One token a sequence, the rest of the tokens in one of them.
    assert max_rows(4, 4 + 64, 64) == len(block_indices([1, 1, 1, 65], 64)) == 5


@pytest.mark.parametrize("num_spec", [0, 3])
def test_tables_do_not_overlap_and_are_aligned(num_spec):
    layout = TableLayout(
        max_seqs=37, max_tokens=1000, num_groups=3, cumsum_block=256, num_spec=num_spec
    )
    end = 0
    for name, place in layout.places.items():
        assert place.start % 16 == 0, name
        assert place.start >= end, name
        end = place.stop
    assert end <= layout.num_elements


def test_each_table_is_a_view_of_its_own_place():
    layout = TableLayout(max_seqs=5, max_tokens=300, num_groups=3, cumsum_block=64, num_spec=2)
    buffer = torch.zeros(layout.num_elements, dtype=torch.int32)
    tables = layout.views(buffer)
    assert tables["state_indices"].shape == (3, 5)
    assert tables["spec_state_indices"].shape == (3, 5, 3)
    assert [*tables] == [table.name for table in TABLES]
    for name, place in layout.places.items():
        buffer.zero_()
        tables[name].fill_(-1)  # every bit of an integer
        touched = buffer.nonzero().flatten().tolist()
        assert touched == list(range(place.start, place.stop)), name
        assert all((layout.host_views(buffer)[name] == tables[name].numpy()).flat), name


@pytest.mark.parametrize(
    ("heads", "tokens"), [(1, 4096), (3, 2048), (4, 1024), (32, 128), (4096, 1), (100_000, 1)]
)
def test_cumsum_block_size(heads, tokens):
    assert cumsum_block_size(heads) == tokens
