# SPDX-License-Identifier: Apache-2.0
"""Filling the chunk tables of one step.

Pure numpy, host only, no loop over sequences. The names and values of the tables are those of
``attention.metadata.GDNChunkedPrefillMetadata``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ascend_gdn.attention.metadata import CHUNK_SIZE, LARGE_BLOCK_SIZE
from ascend_gdn.attention.table_layout import TableLayout, Tables


@dataclass
class TableRows:
    """How many rows of each (sequence, block) table a step uses."""

    chunk64: int
    large_block: int
    cumsum: int
    conv: int = 0


def fill_chunk_tables(
    buffer: np.ndarray, tables: Tables[np.ndarray], layout: TableLayout, lengths: np.ndarray
) -> TableRows:
    """Write all chunk tables of sequences of ``lengths`` tokens; the rest becomes padding.

    Args:
        buffer: [num_elements] int32, what ``tables`` are views of.
        tables: To write; call this before writing the tables that it does not.
        layout: Of the buffer.
        lengths: [N] int32, none zero.
    """
    seqs = len(lengths)
    buffer[: layout.num_fixed] = layout.padding
    fill_offsets(tables.cu_seqlens, lengths)
    chunks = (lengths + (CHUNK_SIZE - 1)) >> 6  # 64 is 2 ** 6
    offsets, update = tables.chunk_offsets_chunk64, tables.update_chunk_offsets_chunk64
    fill_offsets(offsets, chunks)
    np.add(offsets[: seqs + 1], layout.arange[: seqs + 1], out=update[: seqs + 1])
    update[seqs + 1 :] = update[seqs]
    np.subtract(update[1 : seqs + 1], 1, out=tables.final_chunk_indices_chunk64[:seqs])
    arange = layout.arange
    longest = int(lengths[lengths.argmax()])  # a fifth of the time that max() takes
    return TableRows(
        _fill_indices(tables.chunk_indices_chunk64, chunks, offsets[: seqs + 1], arange),
        _fill_blocks(tables.chunk_indices_large_block, lengths, longest, LARGE_BLOCK_SIZE, arange),
        _fill_blocks(tables.block_indices_cumsum, lengths, longest, layout.cumsum_block, arange),
    )


def fill_cu_seqlens(
    buffer: np.ndarray, tables: Tables[np.ndarray], layout: TableLayout, lengths: np.ndarray
) -> TableRows:
    """The same, but leave the tables out that the device makes of ``cu_seqlens``."""
    sent = slice(layout.num_chunk_tables, layout.num_fixed)
    buffer[sent] = layout.padding[sent]
    fill_offsets(tables.cu_seqlens, lengths)
    longest = int(lengths[lengths.argmax()])
    return TableRows(
        _count_blocks(lengths, longest, CHUNK_SIZE),
        _count_blocks(lengths, longest, LARGE_BLOCK_SIZE),
        _count_blocks(lengths, longest, layout.cumsum_block),
    )


def _count_blocks(lengths: np.ndarray, longest: int, block_size: int) -> int:
    if longest <= block_size:
        return len(lengths)
    return int(((lengths + (block_size - 1)) // block_size).sum())


def fill_conv_tables(tables: Tables[np.ndarray], layout: TableLayout, lengths: np.ndarray) -> int:
    """Write which sequence, and which block of it, each program of the convolution takes.

    Args:
        tables: To write.
        layout: Of the tables, with a ``conv_block``.
        lengths: [D + N] int32, tokens of each sequence, none zero.

    Returns:
        Programs, as many as rows written.
    """
    blocks = (lengths + (layout.conv_block - 1)) // layout.conv_block
    starts = np.add.accumulate(blocks, dtype=np.int32)
    rows = int(starts[-1])
    starts -= blocks
    tables.batch_ptr[:rows] = layout.arange[: len(lengths)].repeat(blocks)
    np.subtract(
        layout.arange[:rows], starts.repeat(blocks), out=tables.token_chunk_offset_ptr[:rows]
    )
    return rows


def fill_offsets(out: np.ndarray, counts: np.ndarray) -> None:
    """Write where each of ``counts`` starts and where the last one ends, then repeat the end."""
    used = len(counts) + 1
    np.add.accumulate(counts, dtype=np.int32, out=out[1:used])
    out[used:] = out[used - 1]


def _fill_blocks(
    out: np.ndarray, lengths: np.ndarray, longest: int, block_size: int, arange: np.ndarray
) -> int:
    seqs = len(lengths)
    if longest <= block_size:  # one block a sequence; the padding's second column is 0 already
        out[:seqs, 0] = arange[:seqs]
        return seqs
    blocks = (lengths + (block_size - 1)) // block_size
    offsets = np.zeros(seqs + 1, dtype=np.int32)
    np.add.accumulate(blocks, dtype=np.int32, out=offsets[1:])
    return _fill_indices(out, blocks, offsets, arange)


def _fill_indices(
    out: np.ndarray, counts: np.ndarray, offsets: np.ndarray, arange: np.ndarray
) -> int:
    """Write row (sequence, block) for every block; ``offsets`` [N + 1] says where each starts."""
    seqs, rows = len(counts), int(offsets[-1])
    if seqs == 1:
        out[:rows, 0] = 0
        out[:rows, 1] = arange[:rows]
        return rows
    out[:rows, 0] = arange[:seqs].repeat(counts)
    np.subtract(arange[:rows], offsets[:-1].repeat(counts), out=out[:rows, 1])
    return rows
