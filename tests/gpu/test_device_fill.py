# SPDX-License-Identifier: Apache-2.0
"""The device fill on a GPU: equal to the host fill, and nothing beside the tables is touched."""

from __future__ import annotations

from .device import CUDA, require_cuda

require_cuda()

import numpy as np
import pytest
import torch

from ascend_gdn.attention.device_fill import DeviceFill
from ascend_gdn.attention.table_layout import TableLayout, cumsum_block_size

from ..attention.interpreted_fill import GuardedLayout
from ..attention.test_device_fill import assert_equal_to_host_and_reference


def gpu_fill(layout: TableLayout, buffer: np.ndarray, num_seqs: int) -> np.ndarray:
    on_device = torch.from_numpy(buffer).to(CUDA)
    DeviceFill(layout)(on_device, num_seqs)
    return on_device.cpu().numpy()


@pytest.mark.parametrize("seed", range(16))
def test_random_batches(seed):
    random = np.random.default_rng(seed)
    seqs = int(random.integers(1, 1025))
    longest = int(10 ** random.uniform(0, np.log10(1_000_000 / seqs) + 0.01))
    lengths = random.integers(1, longest + 1, seqs).tolist()
    layout = GuardedLayout(
        seqs + int(random.integers(0, 6)),
        sum(lengths) + int(random.integers(0, 500)),
        3,
        cumsum_block_size(int(random.choice([1, 4, 16, 32, 64]))),
    )
    assert_equal_to_host_and_reference(gpu_fill, layout, lengths)


@pytest.mark.parametrize(
    ("lengths", "max_seqs", "max_tokens"),
    [
        ([1], 1, 1),
        ([1], 256, 8192),
        ([1 << 20], 1, 1 << 20),
        ([1, (1 << 20) - 2, 1], 3, 1 << 20),
        ([1024] * 1024, 1024, 1 << 20),  # full: not one row of padding
        ([1] * 1023 + [(1 << 20) - 1023], 1024, 1 << 20),
        ([64, 128, 1216, 2432], 8, 4096),
    ],
    ids=lambda value: f"{len(value)}x{value[0]}" if isinstance(value, list) else str(value),
)
def test_edges(lengths, max_seqs, max_tokens):
    layout = GuardedLayout(max_seqs, max_tokens, num_groups=3, cumsum_block=128)
    assert_equal_to_host_and_reference(gpu_fill, layout, lengths)
