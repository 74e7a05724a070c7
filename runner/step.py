# SPDX-License-Identifier: Apache-2.0
"""One scheduler step of GDN metadata: opened by the runner, filled by the builders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ascend_gdn.attention.batch_split import BatchSplit
from ascend_gdn.attention.metadata import GDNContractError
from ascend_gdn.attention.step_plan import StepPlan, check_capacity, fill_slot, plan_of
from ascend_gdn.runner.pool import StepBufferPool
from ascend_gdn.runner.stats import GDNStats

BlockTables = Callable[[], Sequence[np.ndarray]]


class GDNStep:
    """What the builders of one step share: the split of its batch and, if it prefills, its plan."""

    def __init__(self, pool: StepBufferPool, block_tables: BlockTables, stats: GDNStats) -> None:
        self.split: BatchSplit | None = None
        self.plan: StepPlan | None = None
        self._pool = pool
        self._block_tables = block_tables
        self._stats = stats

    def make_plan(self, split: BatchSplit, query_start_loc: np.ndarray) -> StepPlan:
        """Fill one slot with every table of the step and send it: once a step, for all groups."""
        check_capacity(split, self._pool.layout)
        slot = self._pool.acquire()
        rows = fill_slot(slot, split, query_start_loc, self._block_tables())
        num_token_indx = 0 if split.spec is None else split.num_tokens
        self._pool.publish(slot, self._pool.layout.num_fixed + num_token_indx)
        self._stats.prefill_steps += 1
        self._stats.plans_built += 1
        return plan_of(slot, split, rows)

    def count_build(self, host_ns: int, reused: bool) -> None:
        """Count one group's build in a prefill step; ``reused`` if the plan was already there."""
        self._stats.plans_reused += reused
        self._stats.host_ns += host_ns


class GDNSteps:
    """The runner's steps: at most one open at a time, closed whatever happens inside."""

    def __init__(self, pool: StepBufferPool, block_tables: BlockTables, stats: GDNStats) -> None:
        self.current: GDNStep | None = None
        self._make = lambda: GDNStep(pool, block_tables, stats)
        self._stats = stats

    @contextmanager
    def open(self) -> Iterator[GDNStep]:
        """Open a step around the build of all groups' metadata."""
        if self.current is not None:
            raise GDNContractError(
                layer="GDNSteps",
                field="open",
                found="a step that is already open",
                expected="one step at a time",
                cause="_build_attention_metadata was entered from within itself",
            )
        self.current = self._make()
        self._stats.steps += 1
        try:
            yield self.current
        finally:
            self.current = None
