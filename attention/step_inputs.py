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

    def write_first_blocks(self, rows: np.ndarray | slice, count: int, out: np.ndarray) -> None:
        """Write [groups, :count] int32: the block of each of ``rows`` with its running state."""
        column: np.ndarray | int = 0
        if self.state_columns is not None:
            column, rows = self.state_columns[rows], _as_array(rows)
        for group, table in enumerate(self.block_tables):
            out[group, :count] = table[rows, column]

    def write_spec_blocks(self, rows: np.ndarray | slice, count: int, out: np.ndarray) -> None:
        """Write [groups, :count, K + 1]: that block and those behind it, for a draft each."""
        columns: np.ndarray | slice = slice(0, out.shape[-1])
        if self.state_columns is not None:
            columns = self.state_columns[rows, None] + np.arange(out.shape[-1])
            rows = _as_array(rows)[:, None]
        for group, table in enumerate(self.block_tables):
            out[group, :count] = table[rows, columns]


def _as_array(rows: np.ndarray | slice) -> np.ndarray:
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
