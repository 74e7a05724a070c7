# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from ascend_gdn.attention.step_inputs import StepInputs

RNG = np.random.default_rng(0)
TABLES = [RNG.integers(1, 1000, (6, 9), dtype=np.int32) for _ in range(3)]
COLUMNS = np.array([0, 5, 2, 3, 1])


@pytest.mark.parametrize("rows", [slice(0, 5), slice(1, 3), slice(2, 2), np.array([4, 0, 3])])
@pytest.mark.parametrize("state_columns", [None, COLUMNS])
def test_blocks_of_the_running_state_and_of_the_drafts_behind_it(rows, state_columns):
    inputs = StepInputs(TABLES, state_columns=state_columns)
    requests = range(5)[rows] if isinstance(rows, slice) else rows.tolist()
    columns = {row: 0 if state_columns is None else state_columns[row] for row in requests}
    first = np.full((3, len(requests) + 1), -1, dtype=np.int32)
    behind = np.full((3, len(requests) + 1, 4), -1, dtype=np.int32)
    inputs.write_first_blocks(rows, len(requests), first)
    inputs.write_spec_blocks(rows, len(requests), behind)
    for table, found, blocks in zip(TABLES, first, behind, strict=True):
        assert found[:-1].tolist() == [table[row, columns[row]] for row in requests]
        for row, of_request in zip(requests, blocks[:-1], strict=True):
            assert of_request.tolist() == table[row, columns[row] :][:4].tolist()
    assert (first[:, -1] == -1).all() and (behind[:, -1] == -1).all()


def test_a_dummy_batch_has_null_blocks_and_accepted_nothing():
    accepted = np.array([3, 1, 2, 4, 1, 1], dtype=np.int32)
    dummy = StepInputs(TABLES, accepted, COLUMNS).without_requests()
    assert [table.shape for table in dummy.block_tables] == [table.shape for table in TABLES]
    assert not np.any(dummy.block_tables)
    assert dummy.num_accepted_tokens is not None
    assert dummy.num_accepted_tokens.tolist() == [1] * 6
    assert dummy.state_columns is None
    assert accepted.tolist() == [3, 1, 2, 4, 1, 1]
    assert StepInputs(TABLES).without_requests().num_accepted_tokens is None
