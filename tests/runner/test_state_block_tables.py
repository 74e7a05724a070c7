# SPDX-License-Identifier: Apache-2.0
"""GDN layers' block tables stay on the host; attention's are vLLM's as before."""

from __future__ import annotations

import pytest
import torch
from vllm.v1.worker.block_table import BlockTable, MultiGroupBlockTable

from ascend_gdn.runner.state_block_tables import StateBlockTable, keep_on_host
from upstream_calls import known

CPU = torch.device("cpu")


@pytest.fixture
def tables() -> MultiGroupBlockTable:
    return known(
        MultiGroupBlockTable,
        max_num_reqs=4,
        max_model_len=64,
        max_num_batched_tokens=64,
        pin_memory=False,
        device=CPU,
        block_sizes=[16, 64, 64],
        kernel_block_sizes=[16, 64, 64],
        max_num_blocks=[4, 1, 1],
    )


def test_only_the_states_tables_stay_on_the_host(tables):
    keep_on_host(tables, [1, 2])
    for table in tables.block_tables:
        table.block_table.gpu.fill_(-9)
        table.slot_mapping.gpu.fill_(-9)
    tables.add_row(([3, 4], [5], [6]), 0)
    tables.commit_block_table(1)
    assert tables[0].block_table.gpu[0, :2].tolist() == [3, 4]
    for group, block in ((1, 5), (2, 6)):
        assert isinstance(tables[group], StateBlockTable)
        assert tables[group].get_numpy_array()[0, 0] == block
        assert (tables[group].block_table.gpu == -9).all()
        tables[group].compute_slot_mapping(1, torch.tensor([0, 2]), torch.arange(2))
        assert (tables[group].slot_mapping.gpu == -9).all()


def test_rows_move_as_before(tables):
    keep_on_host(tables, [1])
    tables.add_row(([3], [5], [6]), 0)
    tables.add_row(([7], [8], [9]), 1)
    tables.swap_row(0, 1)
    assert tables[1].get_numpy_array()[:2, 0].tolist() == [8, 5]
    tables.clear()
    assert not tables[1].get_numpy_array().any()


def test_again_and_for_a_class_of_another_platform_it_changes_nothing(tables):
    class Other(BlockTable):
        pass

    tables.block_tables[2].__class__ = Other
    keep_on_host(tables, [1, 2])
    before = list(tables.block_tables)
    keep_on_host(tables, [1, 2])
    assert all(now is then for now, then in zip(tables.block_tables, before, strict=True))
    assert type(tables[2]) is Other
