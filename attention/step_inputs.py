# SPDX-License-Identifier: Apache-2.0
"""What a step takes from the runner, and where in its block tables the states are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from vllm.v1.attention.backends.utils import NULL_BLOCK_ID

from ascend_gdn.attention.block_tables import BlockTables
from ascend_gdn.attention.context_parallel import ContextParallelBatch


@dataclass(eq=False)  # not frozen: each step makes one
class StepInputs:
    """What a step takes from the runner's host buffers, beside what a builder is given."""

    block_tables: BlockTables | None
    """The state blocks of each request; None for a dummy batch, whose blocks are null."""
    num_accepted_tokens: np.ndarray | None = None
    """[>= R] integer: tokens that each request kept of its last step; None without speculative
    decoding."""
    state_columns: np.ndarray | None = None
    """[>= requests] integer: column of the block table where each request's running state is, with
    prefix caching (``mamba_cache_mode="align"``); None: the first one."""
    context_parallel: ContextParallelBatch | None = None
    """The whole batch, of which this rank has a part; None without prefill context parallelism."""

    @classmethod
    def without_requests(cls, num_accepted_tokens: np.ndarray | None) -> StepInputs:
        """Return inputs for a dummy batch: null blocks, nothing accepted."""
        accepted = num_accepted_tokens
        return cls(None, None if accepted is None else np.ones_like(accepted))

    def write_blocks(self, rows: np.ndarray | slice, out: np.ndarray) -> None:
        """Write [groups, n, W] int32: the block of each of the n ``rows`` with its running state,
        and those behind it."""
        if self.block_tables is None:
            out[...] = NULL_BLOCK_ID
            return
        columns = None
        if self.state_columns is not None:
            columns = self.state_columns[rows, None] + np.arange(out.shape[-1])
        self.block_tables.gather(rows, columns, out)
