# SPDX-License-Identifier: Apache-2.0
"""A step whose chunk tables the device makes, with a stand-in for the kernel."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from ascend_gdn.attention.block_tables import BlockTables
from ascend_gdn.attention.chunk_plan import fill_chunk_tables
from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.attention.step import GDNSteps
from ascend_gdn.attention.table_layout import GROUP_TABLES, TableLayout
from both_sides.workloads import DECODE_WORKLOADS, WORKLOADS, Batch, Ours, OursOnCuda, Workload

from ..attention.reference import reference_tables

LAYOUT = TableLayout(max_seqs=16, max_tokens=8192, num_groups=3, cumsum_block=128, num_spec=3)
CPU = torch.device("cpu")
POISON = -77
MIXED = Workload(
    "decode, speculative, prefills",
    [1, 4, 4, 70, 1300],
    [9, 700, 700, 0, 0],
    [-1, 3, 3, -1, -1],
)


class FakeDeviceFill:
    """As ``DeviceFill``; the kernel's part is done from what has arrived on the device."""

    def __init__(self) -> None:
        self.launched: list[int] = []

    def __call__(self, buffer, num_seqs):
        self.launched.append(num_seqs)
        lengths = LAYOUT.views(buffer)["cu_seqlens"][: num_seqs + 1].diff().numpy()
        made = np.zeros(LAYOUT.num_elements, dtype=np.int32)
        tables = LAYOUT.host_views(torch.from_numpy(made))
        fill_chunk_tables(made, tables, LAYOUT, lengths)
        unsent = LAYOUT.num_chunk_tables
        buffer[:unsent] = torch.from_numpy(made)[:unsent]


def prefill_step(mocker, workload: Workload, device_fill=None):
    """Build one step on slots with a device side; return the pool's slot, metadata, stats."""
    side, stats = Ours(workload), GDNStats()
    side.steps = GDNSteps(LAYOUT, CPU, side._inputs, stats)
    side.steps.device_fill = device_fill
    slot = side.steps.pool._slots[0]
    slot.lay_over(torch.full_like(slot.host_buffer, -1))
    slot.copied = mocker.Mock()
    for group, builder in enumerate(side.builders):
        builder.bind(side.steps, group)
    return slot, side.step(Batch(workload).common_metadata()), stats


@pytest.mark.parametrize(
    ("workload", "lengths"),
    [
        (Workload("prompts", [70, 1300], [0, 0]), [70, 1300]),
        (MIXED, [1, 70, 1300]),  # beside speculative requests a decode passes for a prefill
    ],
)
def test_a_step_is_the_same_whoever_fills_its_tables(mocker, workload, lengths):
    fill = FakeDeviceFill()
    by_host, _, host_stats = prefill_step(mocker, workload)
    slot, metadata, stats = prefill_step(mocker, workload, fill)
    for name, place in LAYOUT.places.items():
        assert slot.device_buffer[place].equal(by_host.device_buffer[place]), name
    chunk = metadata[0].non_spec_prefill_fallback_meta.chunk
    expected = reference_tables(lengths, LAYOUT.cumsum_block)
    for name, values in expected.items():
        assert getattr(chunk, name).tolist() == values, name
    indices = expected["chunk_indices_chunk64"]
    assert chunk.cu_seqlens_host == tuple(expected["cu_seqlens"])
    assert chunk.chunk_indices_chunk64_host == tuple(np.ravel(indices).tolist())
    # One copy, short of what the kernel makes, then one launch for all groups.
    slot.copied.record.assert_called_once_with()
    assert fill.launched == [len(lengths)]
    assert (stats.table_kernels, host_stats.table_kernels) == (1, 0)
    assert host_stats.bytes_copied - stats.bytes_copied == 4 * LAYOUT.num_chunk_tables
    rest = slice(2 * len(indices), LAYOUT.num_chunk_tables)
    assert (slot.host[rest] == -(2**31)).all()


SENT = (
    *WORKLOADS,
    *DECODE_WORKLOADS,
    MIXED,
    Workload("drafts cut", [4, 2, 1, 70], [9, 8, 5, 64], [3, 1, 0, -1], [2, 4, 3, 1]),
)


@pytest.mark.parametrize("make", [Ours, OursOnCuda])
@pytest.mark.parametrize("workload", SENT, ids=lambda workload: workload.name)
def test_all_that_is_written_is_sent(mocker, workload, make):
    side = make(workload)
    pools = side.steps.pool, side.steps.decode_pool
    sent = [mocker.spy(pool, "publish") for pool in pools]
    for pool in pools:
        for slot in pool._slots:
            slot.host[:] = POISON
    side.step(side.batch.common_metadata())
    (publish,) = (spy for spy in sent if spy.call_count)
    slot, num_elements = publish.call_args.args[:2]
    assert np.flatnonzero(slot.host != POISON).max() < num_elements


SHAPES = (
    MIXED,
    DECODE_WORKLOADS[4],
    Workload("drafts", [4] * 5, [9] * 5, [3] * 5),
    Workload("decodes", [1] * 9, [9] * 9),
    Workload("prompts", [70, 5], [0, 0]),
    Workload("a draft", [4], [9], [3]),
    Workload("a decode, a prompt", [1, 90], [9, 0]),
)


def test_rows_behind_those_of_a_step_are_padding_whatever_came_before():
    def build(side, workload):
        side.batch = Batch(workload)
        side.block_tables = BlockTables(side.batch.block_tables)
        side.step(side.batch.common_metadata())
        pool = side.steps.pool if 0 in workload.context_lens else side.steps.decode_pool
        return pool._slots[pool._next - 1]

    side, rng = Ours(MIXED), np.random.default_rng(0)
    for shape in rng.integers(len(SHAPES), size=60):
        slot, expected = build(side, SHAPES[shape]), build(Ours(MIXED), SHAPES[shape])
        for table in GROUP_TABLES:
            found = slot.host_tables[table]
            np.testing.assert_array_equal(found, expected.host_tables[table], SHAPES[shape].name)
            assert (found >= 0).all()  # what a new slot is filled with is negative


def test_closed_steps_hold_no_metadata():
    # What is kept for the next step of the same shape has views of the buffers.
    side = Ours(DECODE_WORKLOADS[0])
    metadata = weakref.ref(side.step(side.batch.common_metadata())[0])
    assert metadata() is not None
    side.steps.close()
    gc.collect()
    assert metadata() is None
