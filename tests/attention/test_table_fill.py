# SPDX-License-Identifier: Apache-2.0
"""Who fills the chunk tables, and where that is decided."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ascend_gdn.attention import table_fill
from ascend_gdn.attention.chunk_plan import fill_chunk_tables, fill_cu_seqlens
from ascend_gdn.attention.device_fill import DeviceFill
from ascend_gdn.attention.table_fill import make_device_fill
from ascend_gdn.attention.table_layout import TableLayout

LAYOUT = TableLayout(max_seqs=8, max_tokens=8192, num_groups=2, cumsum_block=128, num_spec=2)
CPU, DEVICE = torch.device("cpu"), torch.device("meta")
POISON = -7_777_777


@pytest.fixture
def launches(mocker):
    """Launches of the kernel, none of which happens."""
    return mocker.patch.object(DeviceFill, "__call__")


@pytest.fixture
def warning(mocker):
    return mocker.patch.object(table_fill.logger, "warning")


@pytest.mark.parametrize("device", [CPU, DEVICE])
def test_the_host_fills_by_default(device, launches, warning):
    assert make_device_fill("host", LAYOUT, device, has_triton=True) is None
    launches.assert_not_called()
    warning.assert_not_called()


def test_triton_fills_where_it_can(launches, warning):
    fill = make_device_fill("triton", LAYOUT, DEVICE, has_triton=True)
    assert type(fill) is DeviceFill
    (buffer, num_seqs), _ = launches.call_args  # compiled at once
    assert buffer.device == DEVICE and buffer.shape == (LAYOUT.num_elements,) and num_seqs == 0
    warning.assert_not_called()


@pytest.mark.parametrize(
    ("device", "has_triton", "reason"),
    [
        (CPU, True, "the model runs on the CPU"),
        (CPU, False, "the model runs on the CPU"),
        (DEVICE, False, "vLLM finds no usable Triton"),
    ],
)
def test_the_host_fills_where_triton_cannot_and_the_log_says_why(
    device, has_triton, reason, launches, warning
):
    assert make_device_fill("triton", LAYOUT, device, has_triton) is None
    launches.assert_not_called()
    warning.assert_called_once()
    assert reason in warning.call_args.args[0] % warning.call_args.args[1:]


@pytest.mark.parametrize("lengths", [[1], [64, 65], [1217, 1, 4096], [1024] * 8])
def test_what_is_sent_for_the_kernel_equals_the_host_fill(lengths):
    tokens = np.array(lengths, dtype=np.int32)
    buffers = [np.full(LAYOUT.num_elements, POISON, dtype=np.int32) for _ in range(2)]
    rows = [
        write(
            buffer,
            LAYOUT.host_views(torch.from_numpy(buffer)),
            LAYOUT,
            tokens,
        )
        for write, buffer in zip((fill_cu_seqlens, fill_chunk_tables), buffers, strict=True)
    ]
    assert rows[0] == rows[1]
    made = LAYOUT.num_chunk_tables
    np.testing.assert_array_equal(buffers[0][made:], buffers[1][made:])
    # Not sent, but what AscendC's operators take from the host.
    chunk_indices = slice(0, 2 * rows[0].chunk64)
    np.testing.assert_array_equal(buffers[0][chunk_indices], buffers[1][chunk_indices])
    assert (buffers[0][chunk_indices.stop : made] == POISON).all()
    assert not (buffers[1][: LAYOUT.num_padded] == POISON).any()
