# SPDX-License-Identifier: Apache-2.0
"""The ring of slots: order, generations, fence, copies, closing."""

from __future__ import annotations

import pytest
import torch

from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.pool import Slot, StepBufferPool
from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.attention.table_layout import TableLayout

LAYOUT = TableLayout(max_seqs=4, max_tokens=256, num_groups=3, cumsum_block=64)
CPU = torch.device("cpu")


def test_slots_come_round_in_order():
    pool = StepBufferPool(LAYOUT, CPU, GDNStats(), depth=3)
    taken = [pool.acquire() for _ in range(7)]
    assert taken[0] is taken[3] is taken[6]
    assert len({id(slot) for slot in taken}) == 3
    assert (taken[0].generation, taken[1].generation, taken[2].generation) == (3, 2, 2)


def test_a_new_slot_is_poisoned():
    slot = StepBufferPool(LAYOUT, CPU, GDNStats()).acquire()
    assert (slot.host_buffer == -(2**31)).all()


def test_on_cpu_the_device_buffer_is_the_host_buffer_and_nothing_is_copied():
    stats = GDNStats()
    pool = StepBufferPool(LAYOUT, CPU, stats)
    slot = pool.acquire()
    slot.host_tables["cu_seqlens"][:3] = (0, 5, 9)
    pool.publish(slot, LAYOUT.num_fixed)
    assert slot.device_tables["cu_seqlens"][:3].tolist() == [0, 5, 9]
    assert slot.device_buffer.data_ptr() == slot.host_buffer.data_ptr()
    assert (stats.bytes_copied, stats.slot_waits) == (0, 0)
    assert stats.pool_bytes == 2 * LAYOUT.num_elements * 4


@pytest.fixture
def device_pool(mocker):
    """A pool whose slots have a device side and a fence, both on the CPU."""
    stats = GDNStats()
    pool = StepBufferPool(LAYOUT, CPU, stats, depth=2)
    for slot in pool._slots:
        slot.device_buffer = torch.full_like(slot.host_buffer, -1)
        slot.copied = mocker.Mock()
        slot.copied.query.return_value = True
    return pool, stats


def test_publish_copies_what_is_used_and_records_the_fence(device_pool):
    pool, stats = device_pool
    slot = pool.acquire()
    slot.host_buffer.fill_(7)
    pool.publish(slot, 10)
    assert slot.device_buffer[:10].tolist() == [7] * 10
    assert (slot.device_buffer[10:] == -1).all()
    slot.copied.record.assert_called_once_with()
    assert stats.bytes_copied == 40


def test_publish_leaves_out_what_the_device_makes(device_pool):
    pool, stats = device_pool
    slot = pool.acquire()
    slot.host_buffer.fill_(7)
    pool.publish(slot, 10, first=4)
    assert slot.device_buffer[:11].tolist() == [-1] * 4 + [7] * 6 + [-1]
    assert stats.bytes_copied == 24


def test_acquire_waits_for_the_copy_that_still_reads_the_slot(device_pool):
    pool, stats = device_pool
    first = pool.acquire()
    pool.acquire()
    first.copied.query.return_value = False
    assert pool.acquire() is first
    first.copied.synchronize.assert_called_once_with()
    assert stats.slot_waits == 1


def test_acquire_does_not_wait_without_need(device_pool):
    pool, stats = device_pool
    first = pool.acquire()
    pool.acquire()
    pool.acquire()
    first.copied.synchronize.assert_not_called()
    assert stats.slot_waits == 0


def test_closed_pool_raises():
    pool = StepBufferPool(LAYOUT, CPU, GDNStats())
    pool.close()
    with pytest.raises(GDNContractError, match="a closed pool"):
        pool.acquire()


def test_depth_is_checked():
    with pytest.raises(ValueError, match="got depth 0, expected at least 1"):
        StepBufferPool(LAYOUT, CPU, GDNStats(), depth=0)


def test_fixed_slots_have_one_device_buffer():
    pool = StepBufferPool(LAYOUT, CPU, GDNStats(), depth=2, fixed=True)
    first = pool.acquire()
    assert pool.acquire() is first
    second = Slot(LAYOUT, CPU, first.device_buffer)
    assert second.rows("cu_seqlens", 3).data_ptr() == first.rows("cu_seqlens", 3).data_ptr()
    assert second.host_buffer is not first.host_buffer


def test_bytes_of_all_pools_are_counted_until_they_are_closed():
    stats = GDNStats()
    decodes = LAYOUT.without_prefills(8)
    pools = (
        StepBufferPool(LAYOUT, CPU, stats),
        StepBufferPool(decodes, CPU, stats, fixed=True),
    )
    assert stats.pool_bytes == 4 * (2 * LAYOUT.num_elements + decodes.num_elements)
    assert decodes.num_elements < LAYOUT.num_elements
    for pool in pools:
        pool.close()
    assert stats.pool_bytes == 0


def test_rows_are_views_made_once_that_show_what_is_written_later():
    slot = StepBufferPool(LAYOUT, CPU, GDNStats()).acquire()
    starts, states = slot.rows("cu_seqlens", 3), slot.group_rows("state_indices", 2)
    assert slot.rows("cu_seqlens", 3) is starts
    assert slot.group_rows("state_indices", 2) is states
    slot.host_tables["cu_seqlens"][:] = range(LAYOUT.max_seqs + 2)
    slot.host_tables["state_indices"][1] = 7
    assert starts.tolist() == [0, 1, 2]
    assert slot.rows("cu_seqlens", 1).tolist() == [0]
    assert [each.tolist() for each in states][1] == [7, 7]
    assert len(states) == LAYOUT.num_groups


def test_rows_lie_in_the_buffer_that_is_the_twin():
    slot = StepBufferPool(LAYOUT, CPU, GDNStats()).acquire()
    slot.rows("cu_seqlens", 1)
    slot.lay_over(torch.full_like(slot.host_buffer, 9))
    assert slot.rows("cu_seqlens", 1).tolist() == [9]
