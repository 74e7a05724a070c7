# SPDX-License-Identifier: Apache-2.0
"""Compares what a step left in its slot, and what its builders handed out, with the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ascend_gdn.attention.pool import Slot
from ascend_gdn.attention.table_layout import GROUP_TABLES

from .handed_out import (
    chunk_fields,
    context_parallel_fields,
    convolution_fields,
    group_fields,
    shared_fields,
)
from .model import Config, Step
from .tables import decode_tables, ring_tables, token_indx

UNSENT = -9
"""On the device, before anything was sent."""
POISON = -(2**31)
"""On the host, before anything was written (``attention/pool.py``)."""


class Fault(AssertionError):
    """The code does not do what the model does; ``where`` names the table, field or call."""

    def __init__(self, where: str, found: object, expected: object) -> None:
        self.where = where
        super().__init__(f"{where}: found {found}, expected {expected}")


def require(where: str, found: Any, expected: Any) -> None:
    """``None`` in an expected list: whatever is there."""
    if found != expected:
        if isinstance(expected, list) and None in expected and len(found) == len(expected):
            expected = [f if e is None else e for f, e in zip(found, expected, strict=True)]
        if found != expected:
            raise Fault(where, found, expected)


class Fence:
    """A slot's event: no time passes between a copy and its end unless it is told so."""

    def __init__(self, slot: Slot) -> None:
        self.slot, self.sent, self.behind, self.waits = slot, None, False, 0

    def query(self) -> bool:
        if self.sent is not None and not np.array_equal(self.slot.host, self.sent):
            raise Fault("Slot.host", "written before its last copy was known to be done", "unread")
        return not self.behind

    def synchronize(self) -> None:
        self.behind = False
        self.waits += 1

    def record(self) -> None:
        self.sent = self.slot.host.copy()


class SlotChecks:
    """One slot: what is in it, and that nobody but its own step changes it."""

    def __init__(self, config: Config, slot: Slot) -> None:
        self.config, self.slot = config, slot
        if config.slots != "host":
            slot.lay_over(torch.full_like(slot.host_buffer, UNSENT))
            slot.copied = Fence(slot)
        self.device = slot.device_buffer.numpy()
        self.addresses = range(
            slot.device_buffer.data_ptr(), slot.device_buffer.data_ptr() + self.device.nbytes + 1
        )
        layout = slot.layout
        self.groups_start = layout.places[GROUP_TABLES[0]].start
        self.tokens_start = layout.places["token_indx"].start
        used = np.zeros(layout.num_elements, dtype=bool)
        for place in layout.places.values():
            used[place] = True
        gaps = np.flatnonzero(~used)
        self.gaps = gaps[(gaps > layout.num_chunk_tables) & (gaps < self.tokens_start)]
        self.gap_values = np.where(self.gaps < self.groups_start, 0, POISON)
        self.sent_tables = {
            name: table.numpy().reshape(-1)
            for name, table in slot.device_tables.items()
            if table.numel() and name not in ("token_indx", "spec_token_state_indices")
        }
        self.keep()

    def keep(self) -> None:
        self.before = self.device.copy()

    def require_untouched(self, when: str) -> None:
        if not np.array_equal(self.device, self.before):
            first = int(np.flatnonzero(self.device != self.before)[0])
            places = self.slot.layout.places.items()
            table = next((name for name, at in places if at.start <= first < at.stop), "a gap")
            raise Fault(table, f"element {first} was written {when}", "untouched")

    def check_tables(self, step: Step) -> dict[str, list[Any]]:
        """Check all rows of all tables, and that nothing behind them was written."""
        expected = ring_tables(step) if step.in_ring else decode_tables(step)
        for name, table in self.sent_tables.items():
            found = table.tolist()
            if name not in expected:
                padding = 1 if name == "num_accepted_tokens" else 0
                require(name, found, [padding] * len(found))
            else:
                require(name, found, expected[name])
        order = token_indx(step)
        tokens, past = self.device[self.tokens_start :], self.tokens_start + len(order)
        require("token_indx", tokens[: len(order)].tolist(), order)
        if not np.array_equal(self.device[past:], self.before[past:]):
            raise Fault("token_indx", "elements behind the step's own were written", "untouched")
        if not np.array_equal(self.device[self.gaps], self.gap_values):
            raise Fault("a gap between tables", "written", "untouched")
        return expected

    def is_view(self, tensor: torch.Tensor) -> bool:
        return not tensor.numel() or tensor.data_ptr() in self.addresses


def check_metadata(groups: list[Any], step: Step, slot: SlotChecks, tables: dict[str, Any]) -> None:
    """Check what the builder of each group handed out for a step."""
    common, first = shared_fields(step, tables), vars(groups[0])
    for group, metadata in enumerate(groups):
        own = vars(metadata)
        for name, expected in common.items():
            if not group or own[name] is not first[name]:
                check_field(f"group {group}: {name}", own[name], expected, slot)
        for name, expected in group_fields(step, group).items():
            check_field(f"group {group}: {name}", getattr(metadata, name), expected, slot)
        meta = metadata.non_spec_prefill_fallback_meta
        require(f"group {group}: non_spec_prefill_fallback_meta", meta is not None, step.in_ring)
        if meta is None:
            continue
        about = f"group {group}: non_spec_prefill_fallback_meta."
        require(about + "slot", meta.slot is slot.slot, True)
        require(about + "generation", meta.generation, slot.slot.generation)
        require(about + "group", meta.group, group)
        require(about + "num_decodes", meta.num_decodes, len(step.decodes))
        if group == 0:
            for name, expected in chunk_fields(step, tables).items():
                check_field(f"chunk.{name}", getattr(meta.chunk, name), expected, slot)
        elif meta.chunk is not groups[0].non_spec_prefill_fallback_meta.chunk:
            raise Fault(about + "chunk", "another", "that of all groups")
        if step.config.ranks == 1:
            for name, expected in convolution_fields(step, tables, group).items():
                found = getattr(meta.causal_conv1d, name)
                check_field(about + f"causal_conv1d.{name}", found, expected, slot)
        elif step.in_parts:
            for name, expected in context_parallel_fields(step, tables, group).items():
                found = getattr(metadata.context_parallel, name)
                check_field(f"group {group}: context_parallel.{name}", found, expected, slot)


def check_field(where: str, found: Any, expected: Any, slot: SlotChecks) -> None:
    if isinstance(found, torch.Tensor):
        if expected is None or not slot.is_view(found):
            raise Fault(where, found.tolist(), expected and "a view of the step's slot")
        found = found.tolist()
    elif isinstance(found, np.ndarray):
        found = found.tolist()
    require(where, found, expected)


def check_spec_layout(metadata: Any, step: Step) -> None:
    """The CPU's: the tokens of each request as indices; shorter ones repeat their last."""
    starts, tokens, used = 0, [], []
    longest = max(row.tokens for row in step.spec)
    for row in step.spec:
        tokens.append([starts + min(place, row.tokens - 1) for place in range(longest)])
        used.append([place < row.tokens for place in range(longest)])
        starts += row.tokens
    require("spec_layout.tokens", metadata.spec_layout.tokens.tolist(), tokens)
    require("spec_layout.used", metadata.spec_layout.used.tolist(), used)
