# SPDX-License-Identifier: Apache-2.0
"""One scheduler step of GDN metadata: opened by the runner, filled by the builders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from ascend_gdn.attention.batch_split import BatchSplit
from ascend_gdn.attention.decode_plan import DecodePlan, fill_decode_slot
from ascend_gdn.attention.metadata import GDNContractError
from ascend_gdn.attention.step_inputs import StepInputs
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata
from ascend_gdn.attention.step_plan import (
    StepPlan,
    check_capacity,
    fill_slot,
    plan_of,
    used_elements,
)
from ascend_gdn.runner.pool import StepPools
from ascend_gdn.runner.stats import GDNStats


class GDNStep:
    """What the builders of one step share: the split of its batch and what was built for it."""

    def __init__(self, steps: GDNSteps, inputs: StepInputs, idle: bool) -> None:
        self.inputs = inputs
        self.idle = idle
        self.split: BatchSplit | None = None
        self.plan: StepPlan | None = None
        self.shared: StepGDNAttentionMetadata | None = None
        self.decode_plan: DecodePlan | None = None
        self._steps = steps
        self._pools = steps.pools
        self._stats = GDNStats() if idle else steps.stats  # a dummy batch is no step to count

    def __enter__(self) -> GDNStep:
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.current = None

    def make_plan(self, split: BatchSplit, query_start_loc: np.ndarray) -> StepPlan:
        """Fill one slot with every table of the step and send it: once a step, for all groups."""
        pool, fill = self._pools.prefill, self._pools.fill
        check_capacity(split, pool.layout)
        slot = pool.acquire()
        rows = fill_slot(slot, split, query_start_loc, self.inputs, fill)
        pool.publish(slot, used_elements(pool.layout, split, rows.conv), fill.first_sent)
        self._stats.table_kernels += fill.launch(slot.device_buffer, split.num_prefills)
        self._stats.prefill_steps += split.num_prefills > 0
        self._stats.plans_built += 1
        return plan_of(slot, split, rows)

    def make_decode_plan(self, split: BatchSplit) -> DecodePlan:
        """The same for a step without prefills."""
        check_capacity(split, self._pools.prefill.layout)
        slot = self._pools.decode.acquire()
        fill_decode_slot(slot, split, self.inputs)
        self._pools.decode.publish(slot, used_elements(slot.layout, split))
        return DecodePlan(split, slot)

    def count_build(self, host_ns: int, reused: bool) -> None:
        """Count one group's build in a prefill step; ``reused`` if the plan was already there."""
        self._stats.plans_reused += reused
        self._stats.host_ns += host_ns


class GDNSteps:
    """The runner's steps: at most one open at a time, closed whatever happens inside.

    Args:
        pools: Where plans are written.
        inputs: Asked once a step, with whether it is idle: vLLM may replace its buffers after the
            builders are made.
        stats: What is counted.
    """

    def __init__(
        self, pools: StepPools, inputs: Callable[[bool], StepInputs], stats: GDNStats
    ) -> None:
        self.current: GDNStep | None = None
        self.pools = pools
        self.stats = stats
        self._inputs = inputs
        self._idle = False

    def open(self) -> GDNStep:
        """Open a step, for a ``with`` around the build of all groups' metadata."""
        if self.current is not None:
            raise GDNContractError(
                layer="GDNSteps",
                field="open",
                found="a step that is already open",
                expected="one step at a time",
                cause="_build_attention_metadata was entered from within itself",
            )
        step = self.current = GDNStep(self, self._inputs(self._idle), self._idle)
        self.stats.steps += not self._idle
        return step

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Steps opened inside are dummy batches: warm-up, capture, idle data-parallel ranks."""
        self._idle = True
        try:
            yield
        finally:
            self._idle = False
