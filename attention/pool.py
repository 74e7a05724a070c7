# SPDX-License-Identifier: Apache-2.0
"""The buffers that a step's tables live in: a ring of slots."""

from __future__ import annotations

import torch
from vllm.v1.attention.backends.utils import NULL_BLOCK_ID
from vllm.v1.utils import record_function_or_nullcontext

from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.attention.table_layout import GROUP_TABLES, TableLayout

_POISON = -(2**31)


class Slot:
    """One packed host buffer and its device twin. Filled between ``acquire`` and ``publish``."""

    def __init__(
        self, layout: TableLayout, device: torch.device, twin: torch.Tensor | None = None
    ) -> None:
        self.layout = layout
        self.generation = 0
        on_host = device.type == "cpu"
        # Poisoned, so that a table which nobody wrote cannot pass for zeros.
        self.host_buffer = torch.full(
            (layout.num_elements,), _POISON, dtype=torch.int32, pin_memory=not on_host
        )
        if twin is None:
            twin = self.host_buffer if on_host else self.host_buffer.to(device)
        self.host = self.host_buffer.numpy()
        self.host_tables = layout.host_views(self.host_buffer)
        self._written: tuple[int, ...] = (layout.max_seqs,) * len(GROUP_TABLES)
        self.copied = None if on_host else torch.Event(device=device)
        self.lay_over(twin)

    def lay_over(self, device_buffer: torch.Tensor) -> None:
        """Let ``device_buffer`` ([num_elements] int32) be the twin."""
        self.device_buffer = device_buffer
        self.device_tables = self.layout.views(device_buffer)
        # As Ascend's operator takes it: a block a token, if all that verify drafts have as many.
        by_token = self.device_tables["spec_state_indices"].flatten(1)
        self.device_tables["spec_token_state_indices"] = by_token
        self._rows: dict[tuple[str, int], torch.Tensor] = {}
        self._group_rows: dict[tuple[str, int], tuple[torch.Tensor, ...]] = {}

    def pad_after(self, *counts: int) -> None:
        """Let the rows of each of ``GROUP_TABLES`` from its count on be padding.

        Only those that the last step wrote are not: to write all takes 20 us with 48 groups.
        """
        if counts == self._written:
            return
        for table, count, written in zip(GROUP_TABLES, counts, self._written, strict=True):
            if count < written:
                self.host_tables[table][:, count:written] = NULL_BLOCK_ID
        self._written = counts

    def rows(self, table: str, count: int) -> torch.Tensor:
        """The first ``count`` rows of a table that has one a sequence, on the device.

        Addresses never change, so a view is made once and kept: a slice of a torch tensor takes
        1 us, and a step needs ten to twenty.
        """
        view = self._rows.get((table, count))
        if view is None:
            view = self._rows[table, count] = self.device_tables[table][:count]
        return view

    def group_rows(self, table: str, count: int) -> tuple[torch.Tensor, ...]:
        """The same, a KV cache group each."""
        views = self._group_rows.get((table, count))
        if views is None:
            views = self.device_tables[table][:, :count].unbind(0)
            self._group_rows[table, count] = views
        return views


class StepBufferPool:
    """A ring of :class:`Slot`; each step that is planned takes the next one.

    A slot's contents are valid until the ring comes round to it; its generation tells consumers
    when that has happened.

    Args:
        layout: Places of the tables, sized for the largest step.
        device: The model's device. On CPU a slot is one buffer and nothing is copied.
        depth: Slots. A step's copy waits in the stream behind the forward of the step before. With
            asynchronous scheduling the host is one step ahead: the slot that it takes for step
            n + 1 was sent for step n - 1, whose copy has run once step n's forward has begun. So
            two slots are enough not to wait; the fence covers a host that is further ahead.
        stats: Where waits and copied bytes are counted.
        fixed: All slots have one device buffer, so that its addresses are the same in every step.
            Copies to it keep the stream's order. On CPU there is one slot then.
    """

    def __init__(
        self,
        layout: TableLayout,
        device: torch.device,
        stats: GDNStats,
        depth: int = 2,
        fixed: bool = False,
    ) -> None:
        if depth < 1:
            raise ValueError(f"StepBufferPool: got depth {depth}, expected at least 1")
        self.layout = layout
        self._slots = [Slot(layout, device)]
        if not fixed:
            self._slots += [Slot(layout, device) for _ in range(depth - 1)]
        elif device.type != "cpu":
            twin = self._slots[0].device_buffer
            self._slots += [Slot(layout, device, twin) for _ in range(depth - 1)]
        self._next = 0
        self._stats = stats
        self._closed = False
        stats.pool_bytes += self.num_bytes

    @property
    def num_bytes(self) -> int:
        """Host bytes of all slots."""
        return sum(slot.host.nbytes for slot in self._slots)

    def acquire(self) -> Slot:
        """Take the next slot for writing, after its last copy has left the host buffer."""
        if self._closed:
            raise GDNContractError(
                layer="StepBufferPool",
                field="acquire",
                found="a closed pool",
                expected="the pool of a running worker",
                cause="a step was run after the worker shut down, or after its KV cache was set up "
                "anew without binding the builders again",
            )
        slot = self._slots[self._next]
        self._next = (self._next + 1) % len(self._slots)
        if slot.copied is not None and not slot.copied.query():
            self._stats.slot_waits += 1
            slot.copied.synchronize()
        slot.generation += 1
        return slot

    def publish(self, slot: Slot, num_elements: int, first: int = 0) -> None:
        """Send a filled slot's elements from ``first`` up to ``num_elements`` to the device.

        One asynchronous copy, in the current stream's order.
        """
        if slot.copied is None:
            return
        source = slot.host_buffer[first:num_elements]
        with record_function_or_nullcontext("gdn.copy"):
            slot.device_buffer[first:num_elements].copy_(source, non_blocking=True)
            slot.copied.record()
        self._stats.bytes_copied += source.nbytes

    def close(self) -> None:
        """Let go of all buffers; every later ``acquire`` raises."""
        self._closed = True
        self._stats.pool_bytes -= self.num_bytes
        for slot in self._slots:
            slot.generation += 1  # metadata still held anywhere is stale from here on
        self._slots = []
