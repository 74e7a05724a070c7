# SPDX-License-Identifier: Apache-2.0
"""Who fills a slot's chunk tables, the host or the device. Decided once, with the buffer pools."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from vllm.logger import init_logger
from vllm.triton_utils import HAS_TRITON

from ascend_gdn.attention.table_layout import TableLayout

if TYPE_CHECKING:
    from ascend_gdn.attention.device_fill import DeviceFill

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers


def make_device_fill(
    table_fill: str, layout: TableLayout, device: torch.device, has_triton: bool = HAS_TRITON
) -> DeviceFill | None:
    """Return the kernel that fills the chunk tables; None where the host does.

    Args:
        table_fill: "host" or "triton"; the host does where Triton cannot run.
        layout: Of the buffers.
        device: Theirs. The kernel is compiled for it now, not in the first request's step.
        has_triton: Whether Triton can run.
    """
    if table_fill == "host":
        return None
    if device.type == "cpu" or not has_triton:
        logger.warning(
            "ascend-gdn: table_fill is %r, but %s: the host fills the chunk tables.",
            table_fill,
            "the model runs on the CPU" if device.type == "cpu" else "vLLM finds no usable Triton",
        )
        return None
    from ascend_gdn.attention.device_fill import DeviceFill  # needs Triton

    fill = DeviceFill(layout)
    fill(torch.zeros(layout.num_elements, dtype=torch.int32, device=device), 0)
    return fill
