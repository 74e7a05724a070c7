# SPDX-License-Identifier: Apache-2.0
"""The runner's block tables on the host, read for all KV cache groups in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class BlockTables:
    """The block tables of all KV cache groups of GDN layers, for as long as the runner keeps them.

    vLLM has an array a group (``BlockTable`` in vllm/v1/worker/block_table.py, 0.23.0). To cut and
    copy each costs 48 groups 12 us a step; one ``concatenate`` of views that are there costs 4.

    Args:
        tables: A group each: [R, blocks] int32, contiguous, the state blocks of each request.

    Raises:
        ValueError: The groups' tables differ in shape, or have gaps.
    """

    def __init__(self, tables: Sequence[np.ndarray]) -> None:
        self.shape = tables[0].shape
        for table in tables:
            if table.shape != self.shape or not table.flags.c_contiguous:
                raise ValueError(
                    f"BlockTables: got shapes {[table.shape for table in tables]}, expected one for"
                    " all KV cache groups of GDN layers, each contiguous"
                )
        self.tables = list(tables)
        self._flat = [table.reshape(-1) for table in tables]
        self._first: dict[tuple[int, ...], list[np.ndarray]] = {}

    def gather(self, rows: np.ndarray | slice, columns: np.ndarray | None, out: np.ndarray) -> None:
        """Write some blocks of each of ``rows`` ([n] int64) of each group.

        Args:
            rows: Of the tables.
            columns: [n, W] int64, of each row; None for the first W.
            out: [groups, n, W] int32, to write.
        """
        if isinstance(rows, slice):
            if columns is None:
                blocks = self._first_rows(rows.stop, out.shape[-1])
                if rows.start == 0:
                    np.concatenate(blocks, out=out)
                else:
                    out[...] = np.concatenate(blocks)[:, rows]
                return
            rows = np.arange(rows.start, rows.stop)
        if columns is None:
            columns = np.arange(out.shape[-1])
        places = np.ravel_multi_index((rows[:, None], columns), self.shape)[None]
        np.concatenate([table[places] for table in self._flat], out=out)

    def _first_rows(self, count: int, width: int) -> list[np.ndarray]:
        """A view of [1, count, width] of each table."""
        views = self._first.get((count, width))
        if views is None:
            views = [table[None, :count, :width] for table in self.tables]
            self._first[count, width] = views
        return views
