# SPDX-License-Identifier: Apache-2.0
"""What a step takes from the runner, and where in its block tables the states are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from vllm.v1.attention.backends.utils import NULL_BLOCK_ID

from ascend_gdn.attention.context_parallel import ContextParallelBatch


@dataclass(eq=False)  # not frozen: each step makes one
class StepInputs:
    """What a step takes from the runner's host buffers, beside what a builder is given."""

    block_tables: Sequence[np.ndarray]
    """A group each: [>= R, blocks] int32, the state blocks of each request."""
    num_accepted_tokens: np.ndarray | None = None
    """[>= R] integer: tokens that each request kept of its last step; None without speculative
    decoding."""
    state_columns: np.ndarray | None = None
    """[>= requests] integer: column of the block table where each request's running state is, with
    prefix caching (``mamba_cache_mode="align"``); None: the first one."""
    context_parallel: ContextParallelBatch | None = None
    """The whole batch, of which this rank has a part; None without prefill context parallelism."""

    def without_requests(self) -> StepInputs:
        """Return inputs of the same shapes for a dummy batch: null blocks, nothing accepted."""
        accepted = self.num_accepted_tokens
        return StepInputs(
            [np.full_like(table, NULL_BLOCK_ID) for table in self.block_tables],
            None if accepted is None else np.ones_like(accepted),
        )

    def first_blocks(self, rows: np.ndarray | slice) -> list[np.ndarray]:
        """A group each, [n] int32: the block of each of ``rows`` that has its running state."""
        if self.state_columns is None:
            return [table[rows, 0] for table in self.block_tables]
        columns, rows = self.state_columns[rows], _as_array(rows)
        return [table[rows, columns] for table in self.block_tables]

    def spec_blocks(self, group: int, rows: np.ndarray | slice, count: int) -> np.ndarray:
        """[n, count] int32: that block and those that follow it, a speculative token each."""
        table = self.block_tables[group]
        if self.state_columns is None:
            return table[rows, :count]
        columns = self.state_columns[rows, None] + np.arange(count)
        return table[_as_array(rows)[:, None], columns]


def _as_array(rows: np.ndarray | slice) -> np.ndarray:
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
