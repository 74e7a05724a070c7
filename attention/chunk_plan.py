# SPDX-License-Identifier: Apache-2.0
"""Filling the chunk tables of one step.

Pure numpy, host only, no loop over sequences. The names and values of the tables are those of
``attention.metadata.GDNChunkedPrefillMetadata``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ascend_gdn.attention.table_layout import CHUNK_SIZE, LARGE_BLOCK_SIZE, TableLayout

HostTables = dict[str, np.ndarray]
"""Of ``TableLayout.host_views``."""


class TableRows(NamedTuple):
    """How many rows of each (sequence, block) table a step uses."""

    chunk64: int
    large_block: int
    cumsum: int


NO_ROWS = TableRows(0, 0, 0)


def fill_chunk_tables(
    buffer: np.ndarray, tables: HostTables, layout: TableLayout, lengths: np.ndarray
) -> TableRows:
    """Write all chunk tables of sequences of ``lengths`` tokens; the rest becomes padding, but for
    ``GROUP_TABLES``.

    Args:
        buffer: [num_elements] int32, what ``tables`` are views of.
        tables: To write; call this before writing the tables that it does not.
        layout: Of the buffer.
        lengths: [N] int32, none zero.
    """
    seqs = len(lengths)
    buffer[: layout.num_padded] = layout.padding
    counts = tables["prefill_offsets"][:, 1 : seqs + 1]
    chunks = (lengths + (CHUNK_SIZE - 1)) >> 6  # 64 is 2 ** 6
    counts[0] = chunks
    np.add(chunks, 1, out=counts[1])
    counts[2] = lengths
    _sum_up(tables["prefill_offsets"])
    np.subtract(counts[1], 1, out=tables["final_chunk_indices_chunk64"][:seqs])
    if seqs == 1:
        return _fill_single(tables, layout, int(lengths[0]))
    longest, starts = int(lengths[lengths.argmax()]), tables["chunk_offsets_chunk64"][:seqs]
    arange = layout.arange
    return TableRows(
        _fill_indices(tables["chunk_indices_chunk64"], chunks, starts, arange),
        _fill_blocks(
            tables["chunk_indices_large_block"], lengths, longest, LARGE_BLOCK_SIZE, arange
        ),
        _fill_blocks(tables["block_indices_cumsum"], lengths, longest, layout.cumsum_block, arange),
    )


def fill_cu_seqlens(
    buffer: np.ndarray, tables: HostTables, layout: TableLayout, lengths: np.ndarray
) -> TableRows:
    """The same, but leave the tables out that the device makes of ``cu_seqlens``.

    Of these the host has ``chunk_indices_chunk64`` all the same, without padding, and does not send
    it: AscendC's operators take it from the host.
    """
    sent = slice(layout.num_chunk_tables, layout.num_padded)
    buffer[sent] = layout.padding[sent]
    fill_offsets(tables["cu_seqlens"], lengths)
    longest = int(lengths[lengths.argmax()])
    chunks = (lengths + (CHUNK_SIZE - 1)) >> 6
    starts = np.add.accumulate(chunks) - chunks
    return TableRows(
        _fill_indices(tables["chunk_indices_chunk64"], chunks, starts, layout.arange),
        _count_blocks(lengths, longest, LARGE_BLOCK_SIZE),
        _count_blocks(lengths, longest, layout.cumsum_block),
    )


def _count_blocks(lengths: np.ndarray, longest: int, block_size: int) -> int:
    if longest <= block_size:
        return len(lengths)
    return int(((lengths + (block_size - 1)) // block_size).sum())


def fill_offsets(out: np.ndarray, counts: np.ndarray) -> None:
    """Write where each of ``counts`` starts and where the last one ends, then repeat the end.

    ``out`` is padding: zeros.
    """
    out[1 : len(counts) + 1] = counts
    _sum_up(out)


def _sum_up(counts: np.ndarray) -> None:
    # Zeros behind the last count make the sums repeat the end: no second call a table for that.
    np.add.accumulate(counts, axis=-1, out=counts)


def _fill_single(tables: HostTables, layout: TableLayout, length: int) -> TableRows:
    """Write the (sequence, block) tables of a step with one sequence: the most common, and short of
    all gathers."""
    rows = TableRows(
        *(-(-length // size) for size in (CHUNK_SIZE, LARGE_BLOCK_SIZE, layout.cumsum_block))
    )
    for table, count in (
        (tables["chunk_indices_chunk64"], rows.chunk64),
        (tables["chunk_indices_large_block"], rows.large_block),
        (tables["block_indices_cumsum"], rows.cumsum),
    ):
        table[:count, 0] = 0
        table[:count, 1] = layout.arange[:count]
    return rows


def _fill_blocks(
    out: np.ndarray, lengths: np.ndarray, longest: int, block_size: int, arange: np.ndarray
) -> int:
    seqs = len(lengths)
    if longest <= block_size:  # one block a sequence; the padding's second column is 0 already
        out[:seqs, 0] = arange[:seqs]
        return seqs
    blocks = (lengths + (block_size - 1)) // block_size
    return _fill_indices(out, blocks, np.add.accumulate(blocks) - blocks, arange)


def _fill_indices(
    out: np.ndarray, counts: np.ndarray, starts: np.ndarray, arange: np.ndarray
) -> int:
    """Write row (sequence, block) for every block; ``starts`` [N] says where each one's are."""
    rows = int(starts[-1]) + int(counts[-1])
    out[:rows, 0] = arange[: len(counts)].repeat(counts)
    np.subtract(arange[:rows], starts.repeat(counts), out=out[:rows, 1])
    return rows
