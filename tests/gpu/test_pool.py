# SPDX-License-Identifier: Apache-2.0
"""Thousands of steps, and a device that falls behind: no step may read another step's tables."""

from __future__ import annotations

from .device import CUDA, require_cuda

require_cuda()

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm.triton_utils import tl, triton

from ascend_gdn.attention.pool import Slot, StepBufferPool
from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.attention.table_layout import TableLayout

LAYOUT = TableLayout(max_seqs=64, max_tokens=4096, num_groups=3, cumsum_block=128)
STEPS = 4000
DEPTH = 2
SLOW = 200_000
"""Cycles that the device sleeps before each copy: about 0.1 ms."""


@triton.jit
def _wait_until_opened(flag):
    while tl.load(flag, volatile=True) == 0:
        pass


@contextmanager
def gated_device(pool: StepBufferPool) -> Iterator[Callable[[], None]]:
    """The device does nothing of what it is given until what is yielded is called."""
    flag = torch.zeros(1, dtype=torch.int32, pin_memory=True)
    pool._slots[0].device_buffer.sum()  # to load a kernel may mean to wait for the device
    torch.cuda.synchronize()
    _wait_until_opened[(1,)](flag)
    try:
        yield lambda: flag.fill_(1)
    finally:
        flag.fill_(1)
        torch.cuda.synchronize()


def take_step(pool: StepBufferPool, value: int, used: int) -> tuple[Slot, torch.Tensor]:
    """A step that writes ``value``; returns its slot and what its consumer on the device sums."""
    slot = pool.acquire()
    slot.host[:used] = value
    pool.publish(slot, used)
    return slot, slot.device_buffer[:used].sum()


@pytest.mark.parametrize("fixed", [False, True], ids=["a buffer each", "one device buffer"])
def test_no_step_reads_stale_tables(fixed):
    stats = GDNStats()
    pool = StepBufferPool(LAYOUT, CUDA, stats, DEPTH, fixed)
    random = np.random.default_rng(0)
    used = random.integers(LAYOUT.num_fixed, LAYOUT.num_elements + 1, STEPS)
    sums = torch.empty(STEPS, dtype=torch.int64, device=CUDA)
    for step in range(STEPS):
        torch.cuda._sleep(SLOW)
        _, sums[step] = take_step(pool, step + 1, int(used[step]))
    expected = used * np.arange(1, STEPS + 1)
    assert (sums.cpu().numpy() == expected).all()
    assert stats.bytes_copied == used.sum() * 4


@pytest.mark.parametrize("fixed", [False, True], ids=["a buffer each", "one device buffer"])
def test_a_slot_is_not_written_until_its_copy_has_run(fixed):
    stats = GDNStats()
    pool = StepBufferPool(LAYOUT, CUDA, stats, DEPTH, fixed)
    with gated_device(pool) as open_gate:
        steps = [take_step(pool, value, LAYOUT.num_elements) for value in (1, 2)]
        first = steps[0][0]
        fence = first.copied
        assert not fence.query()

        def wait() -> None:  # the next step's: were it not called, the gate would stay closed
            assert (first.host == 1).all()
            open_gate()
            fence.synchronize()

        first.copied = SimpleNamespace(query=fence.query, synchronize=wait, record=fence.record)
        assert stats.slot_waits == 0
        steps.append(take_step(pool, 3, LAYOUT.num_elements))
        assert stats.slot_waits == 1
    assert [int(total) for _, total in steps] == [
        value * LAYOUT.num_elements for value in (1, 2, 3)
    ]


def test_without_the_fence_steps_do_read_stale_tables():
    """The tests above can fail."""
    pool = StepBufferPool(LAYOUT, CUDA, GDNStats(), DEPTH)
    for slot in pool._slots:
        slot.copied = SimpleNamespace(query=lambda: True, record=lambda: None)
    with gated_device(pool):
        sums = [take_step(pool, value, LAYOUT.num_elements)[1] for value in range(1, 9)]
    # Each slot was sent as its last step left it.
    assert [int(total) // LAYOUT.num_elements for total in sums] == [7, 8] * 4
