# SPDX-License-Identifier: Apache-2.0
"""Thousands of steps, faster than the device: no step may read another step's tables."""

from __future__ import annotations

from .device import CUDA, require_cuda

require_cuda()

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ascend_gdn.attention.table_layout import TableLayout
from ascend_gdn.runner.pool import StepBufferPool
from ascend_gdn.runner.stats import GDNStats

LAYOUT = TableLayout(max_seqs=64, max_tokens=4096, num_groups=3, cumsum_block=128, conv_block=8)
STEPS = 4000
SLOW = 200_000
"""Cycles that the device sleeps before each copy: about 0.1 ms, several times what the host takes
for a step. The host is soon as many steps ahead as the fence lets it be."""


def stale_steps(pool: StepBufferPool) -> int:
    """Run the steps, and count those whose consumer on the device saw another step's values."""
    random = np.random.default_rng(0)
    sums = torch.empty(STEPS, dtype=torch.int64, device=CUDA)
    expected = np.empty(STEPS, dtype=np.int64)
    for step in range(STEPS):
        slot = pool.acquire()
        used = int(random.integers(LAYOUT.num_fixed, LAYOUT.num_elements + 1))
        slot.host[:used] = step + 1
        expected[step] = (step + 1) * used
        torch.cuda._sleep(SLOW)
        pool.publish(slot, used)
        sums[step] = slot.device_buffer[:used].sum()
    torch.cuda.synchronize()
    return int((sums.cpu().numpy() != expected).sum())


@pytest.mark.parametrize("fixed", [False, True], ids=["a buffer each", "one device buffer"])
def test_no_step_reads_stale_tables(fixed):
    stats = GDNStats()
    pool = StepBufferPool(LAYOUT, CUDA, stats, depth=2, fixed=fixed)
    assert stale_steps(pool) == 0
    assert stats.slot_waits > STEPS / 2  # the host was ahead, and waited
    assert stats.bytes_copied >= STEPS * LAYOUT.num_fixed * 4


def test_without_the_fence_steps_do_read_stale_tables():
    """The test above can fail."""
    pool = StepBufferPool(LAYOUT, CUDA, GDNStats(), depth=2)
    for slot in pool._slots:
        slot.copied = SimpleNamespace(query=lambda: True, record=lambda: None)
    assert stale_steps(pool) > STEPS / 2
