# SPDX-License-Identifier: Apache-2.0
"""All slots of a worker: which one a step takes, and how long what it hands out is valid."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import Any

from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.pool import StepBufferPool
from ascend_gdn.attention.step import GDNSteps
from ascend_gdn.attention.step_metadata import require_step_metadata
from both_sides.workloads import CPU

from .checks import Fault, Fence, SlotChecks, check_metadata, check_spec_layout, require
from .model import Config, Step
from .tables import chunk_tables

GENERATION = "non_spec_prefill_fallback_meta.generation"


class ChunkKernel:
    """In place of ``DeviceFill``: what it makes, of what has arrived on the device."""

    def __init__(self, config: Config, layout: Any) -> None:
        self.config, self.layout = config, layout

    def __call__(self, buffer: Any, seqs: int) -> None:
        tables = self.layout.views(buffer)
        starts = tables["cu_seqlens"][: seqs + 1].tolist()
        lengths = [end - start for start, end in pairwise(starts)]
        for name, values in chunk_tables(self.config, lengths).items():
            tables[name].numpy().reshape(-1)[:] = values


class Slots:
    """The ring's, then that of steps without prefills."""

    def __init__(self, config: Config, steps: GDNSteps, pool_cls: type) -> None:
        if pool_cls is not StepBufferPool:
            steps.pool.close()
            steps.pool = pool_cls(steps.pool.layout, CPU, steps.stats)
        if config.slots == "kernel":
            steps.device_fill = ChunkKernel(config, steps.pool.layout)
        pools = [steps.pool] + ([steps.decode_pool] if steps.decode_pool else [])
        self.config, self.stats = config, steps.stats
        self.slots = [SlotChecks(config, slot) for pool in pools for slot in pool._slots]
        self.ring, self.taken = len(steps.pool._slots), 0
        self.held: deque[tuple[int, Any, int]] = deque(maxlen=4)
        """Of each of the ring's last steps: its number, metadata, rows of a layer's tensors."""
        self.stats.reset()
        self.counts = dict.fromkeys(("steps", "prefill_steps", "plans_built", "plans_reused"), 0)
        self.counts |= {"slot_waits": 0, "table_kernels": 0}

    def before_step(self, behind: bool) -> None:
        """``behind``: copies are still under way."""
        self.require_untouched("between steps")
        for slot in self.slots:
            if isinstance(slot.slot.copied, Fence):
                slot.slot.copied.behind = behind

    def after_step(self, step: Step, found: list[Any]) -> None:
        """Check all that the step wrote and handed out, and what earlier steps did."""
        slot = self.slots[self.taken % self.ring if step.in_ring else -1]
        self.require_untouched("by a step that has another slot", slot)
        check_metadata(found, step, slot, slot.check_tables(step))
        if step.spec and self.config.slots == "host":
            check_spec_layout(found[0], step)
        slot.keep()
        if step.in_ring:
            self.taken += 1
            self.held.append((self.taken, found[-1], step.num_actual_tokens))
        else:
            self._require_valid(found[-1], step.num_actual_tokens)
        for number, metadata, tokens in self.held:
            if self.taken - number < self.ring:
                self._require_valid(metadata, tokens)
            else:
                self._require_refused(metadata, tokens)
        self._check_stats(step, slot)

    def require_untouched(self, when: str, own: SlotChecks | None = None) -> None:
        for slot in self.slots:
            if slot is not own:
                slot.require_untouched(when)

    def require_closed(self) -> None:
        """All that was handed out is refused."""
        for _, metadata, tokens in self.held:
            self._require_refused(metadata, tokens)

    def _require_valid(self, metadata: Any, tokens: int) -> None:
        try:
            require_step_metadata(metadata, layer="fuzz", num_tokens=tokens)
        except GDNContractError as error:
            raise Fault(error.field, f"refused: {error}", "metadata of a step that lives") from None

    def _require_refused(self, metadata: Any, tokens: int) -> None:
        try:
            require_step_metadata(metadata, layer="fuzz", num_tokens=tokens)
        except GDNContractError as error:
            require("refused field", error.field, GENERATION)
        else:
            raise Fault(GENERATION, "an earlier step accepted", "refused: its slot was taken")

    def _check_stats(self, step: Step, slot: SlotChecks) -> None:
        counts = self.counts
        if not step.dummy:
            counts["steps"] += 1
            counts["prefill_steps"] += bool(step.prefills)
            counts["plans_built"] += step.in_ring
            counts["plans_reused"] += step.in_ring * (self.config.groups - 1)
            counts["table_kernels"] += bool(step.prefills) and self.config.slots == "kernel"
        if isinstance(slot.slot.copied, Fence):
            counts["slot_waits"] = sum(each.slot.copied.waits for each in self.slots)
        for name, count in counts.items():
            require(f"GDNStats.{name}", getattr(self.stats, name), count)
