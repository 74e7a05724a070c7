# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from ascend_gdn.attention.block_tables import BlockTables
from ascend_gdn.attention.step_inputs import StepInputs

RNG = np.random.default_rng(0)
TABLES = [RNG.integers(1, 1000, (6, 9), dtype=np.int32) for _ in range(3)]
COLUMNS = np.array([0, 5, 2, 3, 1])


@pytest.mark.parametrize("rows", [slice(0, 5), slice(1, 3), slice(2, 2), np.array([4, 0, 3])])
@pytest.mark.parametrize("state_columns", [None, COLUMNS])
@pytest.mark.parametrize("width", [1, 4])
def test_blocks_of_the_running_state_and_of_the_drafts_behind_it(rows, state_columns, width):
    inputs = StepInputs(BlockTables(TABLES), state_columns=state_columns)
    requests = range(5)[rows] if isinstance(rows, slice) else rows.tolist()
    out = np.full((3, len(requests), width), -1, dtype=np.int32)
    inputs.write_blocks(rows, out)
    for table, found in zip(TABLES, out, strict=True):
        for row, blocks in zip(requests, found, strict=True):
            column = 0 if state_columns is None else state_columns[row]
            assert blocks.tolist() == table[row, column:][:width].tolist()


def test_a_dummy_batch_has_null_blocks_and_accepted_nothing():
    accepted = np.array([3, 1, 2, 4, 1, 1], dtype=np.int32)
    dummy = StepInputs.without_requests(accepted)
    out = np.full((3, 5, 4), -1, dtype=np.int32)
    dummy.write_blocks(slice(0, 5), out)
    assert not out.any()
    assert dummy.num_accepted_tokens is not None
    assert dummy.num_accepted_tokens.tolist() == [1] * 6
    assert dummy.state_columns is None
    assert accepted.tolist() == [3, 1, 2, 4, 1, 1]
    assert StepInputs.without_requests(None).num_accepted_tokens is None
