# SPDX-License-Identifier: Apache-2.0
"""Who fills a slot's chunk tables, the host or the device. Chosen once, with the buffer pools."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from vllm.logger import init_logger
from vllm.triton_utils import HAS_TRITON

from ascend_gdn.attention.chunk_plan import (
    HostTables,
    TableRows,
    fill_chunk_tables,
    fill_cu_seqlens,
)
from ascend_gdn.attention.table_layout import TableLayout

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers

TABLE_FILLS = ("host", "triton")
"""What ``--additional-config '{"gdn_table_fill": …}'`` can be; the first is the default."""


class TableFill(Protocol):
    """Fills the chunk tables of every prefill step, in three parts: write, send, launch."""

    @property
    def first_sent(self) -> int:
        """Element of the packed buffer from which on a step sends it to the device."""

    def write(
        self,
        buffer: np.ndarray,
        tables: HostTables,
        layout: TableLayout,
        lengths: np.ndarray,
    ) -> TableRows:
        """Write the host's part, with the arguments of ``chunk_plan.fill_chunk_tables``."""

    def launch(self, buffer: torch.Tensor, num_seqs: int) -> int:
        """Have the device do its part, after the copy in the current stream's order.

        Args:
            buffer: [layout.num_elements] int32, on the device.
            num_seqs: Prefill sequences of the step.

        Returns:
            Kernels launched.
        """


class HostFill:
    """All tables are numpy's work, and are sent."""

    first_sent = 0
    write = staticmethod(fill_chunk_tables)

    def launch(self, buffer: torch.Tensor, num_seqs: int) -> int:
        return 0


class TritonFill:
    """``cu_seqlens`` is sent, and a kernel makes the tables of it.

    Args:
        layout: Of the buffers.
        device: Theirs. The kernel is compiled for it now, not in the first request's step.
    """

    write = staticmethod(fill_cu_seqlens)

    def __init__(self, layout: TableLayout, device: torch.device) -> None:
        from ascend_gdn.attention.device_fill import FillLaunch  # needs Triton

        self.first_sent = layout.num_chunk_tables
        self._launch = FillLaunch.of(layout)
        self._launch(torch.zeros(layout.num_elements, dtype=torch.int32, device=device), 0)

    def launch(self, buffer: torch.Tensor, num_seqs: int) -> int:
        self._launch(buffer, num_seqs)
        return 1


def make_table_fill(
    name: str, layout: TableLayout, device: torch.device, has_triton: bool = HAS_TRITON
) -> TableFill:
    """Return the fill called ``name`` (of ``TABLE_FILLS``), or the host's where Triton cannot run.

    The one place where that is decided: every step uses the object that this returns.
    """
    if name == "host":
        return HostFill()
    if device.type != "cpu" and has_triton:
        logger.info("ascend-gdn: a Triton kernel fills the chunk tables on %s.", device)
        return TritonFill(layout, device)
    logger.warning(
        "ascend-gdn: gdn_table_fill is %r, but %s: the host fills the chunk tables.",
        name,
        "the model runs on the CPU" if device.type == "cpu" else "vLLM finds no usable Triton",
    )
    return HostFill()
