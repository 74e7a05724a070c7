# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from ascend_gdn.attention.block_tables import BlockTables

RNG = np.random.default_rng(0)
POISON = -7
COLUMNS = np.array([[0, 3], [5, 6], [7, 8], [3, 1], [1, 0]])


@pytest.fixture
def arrays():
    return [RNG.integers(1, 1000, (6, 9), dtype=np.int32) for _ in range(3)]


@pytest.mark.parametrize(
    "rows", [slice(0, 5), slice(0, 0), slice(1, 3), slice(2, 2), np.array([4, 0, 3])]
)
@pytest.mark.parametrize("columns", [None, COLUMNS])
def test_gathers_what_it_is_asked_for_and_writes_no_more(arrays, rows, columns):
    requests = range(5)[rows] if isinstance(rows, slice) else rows.tolist()
    out = np.full((3, 8, 2), POISON, dtype=np.int32)
    tables = BlockTables(arrays)
    tables.gather(rows, columns if columns is None else columns[rows], out[:, : len(requests)])
    for array, found in zip(arrays, out, strict=True):
        for row, blocks in zip(requests, found, strict=False):
            of_row = [0, 1] if columns is None else columns[row].tolist()
            assert blocks.tolist() == [array[row, column] for column in of_row]
    assert (out[:, len(requests) :] == POISON).all()


@pytest.mark.parametrize("rows", [slice(0, 4), slice(1, 5)])
def test_what_is_kept_of_the_tables_follows_them(arrays, rows):
    tables, out = BlockTables(arrays), np.empty((3, 4, 1), dtype=np.int32)
    tables.gather(rows, None, out)
    for array in arrays:
        array[:] += 1000
    tables.gather(rows, None, out)
    assert out[..., 0].tolist() == [array[rows, 0].tolist() for array in arrays]


def test_a_column_past_the_last_one_is_not_the_next_row(arrays):
    out = np.full((3, 1, 1), POISON, dtype=np.int32)
    with pytest.raises(ValueError, match="invalid entry"):
        BlockTables(arrays).gather(slice(1, 2), np.array([[9]]), out)
    assert (out == POISON).all()


def test_tables_that_it_cannot_read_at_once(arrays):
    with pytest.raises(ValueError, match=r"\(6, 9\), \(6, 9\), \(6, 8\)"):
        BlockTables([*arrays[:2], arrays[2][:, :8].copy()])
    with pytest.raises(ValueError, match="contiguous"):
        BlockTables([array[:, :8] for array in arrays])
