# SPDX-License-Identifier: Apache-2.0
"""Twelve faults, each of which breaks one thing in what runs: the fuzz must find all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ascend_gdn.attention.pool import Slot, StepBufferPool

from .runner import Runner, VllmRunner
from .world import Parts


class FlippedIndex(StepBufferPool):
    def publish(self, slot: Slot, num_elements: int, first: int = 0) -> None:
        rows = slot.host_tables["chunk_indices_chunk64"]
        rows[:] = rows[:, ::-1].copy()
        super().publish(slot, num_elements, first)


class OffByOneOffset(StepBufferPool):
    def publish(self, slot: Slot, num_elements: int, first: int = 0) -> None:
        slot.host_tables["chunk_offsets_chunk64"][1] += 1
        super().publish(slot, num_elements, first)


class DroppedFinalChunk(StepBufferPool):
    def publish(self, slot: Slot, num_elements: int, first: int = 0) -> None:
        rows = slot.host_tables["chunk_indices_chunk64"]
        used = np.flatnonzero(rows[:, 0] < slot.layout.max_seqs)
        if len(used):
            rows[used[-1]] = slot.layout.max_seqs, 0
        super().publish(slot, num_elements, first)


class WrongInitialState(StepBufferPool):
    def publish(self, slot: Slot, num_elements: int, first: int = 0) -> None:
        flags = slot.host_tables["has_initial_state"]
        flags[0] = not flags[0]
        super().publish(slot, num_elements, first)


class DraftsInReverse(StepBufferPool):
    def publish(self, slot: Slot, num_elements: int, first: int = 0) -> None:
        tokens = slot.host_tables["token_indx"][: num_elements - slot.layout.num_fixed]
        tokens[:] = tokens[::-1].copy()
        super().publish(slot, num_elements, first)


class SentShort(StepBufferPool):
    """All but the last token that is sent."""

    def publish(self, slot: Slot, num_elements: int, first: int = 0) -> None:
        super().publish(slot, num_elements - (num_elements > slot.layout.num_fixed), first)


class StaleSlot(StepBufferPool):
    """A slot that is taken again is not told from what it was."""

    def acquire(self) -> Slot:
        slot = super().acquire()
        slot.generation = 1
        return slot


class UnpaddedSlot(Slot):
    fresh = True

    def pad_after(self, *counts: int) -> None:
        if self.fresh:
            super().pad_after(*counts)
        self.fresh = False


class MissingNullPadding(StepBufferPool):
    def __init__(self, layout: Any, device: Any, stats: Any) -> None:
        super().__init__(layout, device, stats)
        self._slots = [UnpaddedSlot(layout, device) for _ in self._slots]


class SwappedTables:
    def __init__(self, tables: Any) -> None:
        self.tables = tables

    def gather(self, rows: Any, columns: Any, out: np.ndarray) -> None:
        self.tables.gather(rows, columns, out)
        out[...] = out[::-1].copy()


class SwappedGroups(Runner):
    def _gdn_step_inputs(self, groups: list[int], idle: bool) -> Any:
        inputs = super()._gdn_step_inputs(groups, idle)
        if inputs.block_tables is None:
            return inputs
        return replace(inputs, block_tables=SwappedTables(inputs.block_tables))


class LostAcceptedCount(Runner):
    def _restore(self, counts: np.ndarray) -> None:
        pass


class ReplayedPrefill(Runner):
    """A graph of decodes is replayed whatever the requests are."""

    def _determine_batch_execution_and_padding(self, *args: Any, **kwargs: Any) -> bool:
        return VllmRunner._determine_batch_execution_and_padding(self, *args, **kwargs)


class WrongGeneration:
    """Before the builder's class."""

    def _add_groups(self, groups: list[Any], step: Any, split: Any) -> None:
        super()._add_groups(groups, step, split)
        meta = groups[-1].non_spec_prefill_fallback_meta
        if meta is not None:
            meta.generation -= 1


FAULTS = {
    "flipped index": (Parts(pool_cls=FlippedIndex), "chunk_indices_chunk64"),
    "off-by-one offset": (Parts(pool_cls=OffByOneOffset), "chunk_offsets_chunk64"),
    "dropped final chunk": (Parts(pool_cls=DroppedFinalChunk), "chunk_indices_chunk64"),
    "wrong has_initial_state": (Parts(pool_cls=WrongInitialState), "has_initial_state"),
    "token order of drafts": (Parts(pool_cls=DraftsInReverse), "token_indx"),
    "sent short": (Parts(pool_cls=SentShort), "token_indx"),
    "stale slot": (Parts(pool_cls=StaleSlot), "generation"),
    "missing null padding": (Parts(pool_cls=MissingNullPadding), "state_indices"),
    "swapped group": (Parts(runner_cls=SwappedGroups), "state_indices"),
    "lost accepted count": (Parts(runner_cls=LostAcceptedCount), "num_accepted_tokens"),
    "replayed prefill": (Parts(runner_cls=ReplayedPrefill), "decode graph"),
    "wrong generation": (Parts(builder_base=WrongGeneration), "generation"),
}
"""What is broken: with what, and what the error must name."""
