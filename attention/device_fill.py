# SPDX-License-Identifier: Apache-2.0
"""Filling the chunk tables of a step on the device, from the ``cu_seqlens`` that are there already.

One Triton kernel, one launch a step, no wait. What it costs, by reading: on the host the launch. On
the device every program walks the step's sequences once, a load and some scalar operations each,
and once more, with vectors, those that have rows in its part. A pool for 256 sequences and 8192
tokens takes 4 programs, one for 1024 sequences and a million tokens 57 (32 value heads). All rows
are written, used or not, as the host fill does. On an H100's host the launch takes longer than the
numpy that it spares (benchmarks/results): 1.1 to 1.4 times a step's whole host time.

This module needs Triton and no vLLM: ``attention.table_fill`` imports it where Triton can run,
tests run it in Triton's interpreter, and ``make lowering`` lowers it for Ascend.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ascend_gdn.attention.table_layout import CHUNK_SIZE, LARGE_BLOCK_SIZE, TableLayout

ROWS = 512
"""Rows that one program writes of a (sequence, block) table: 4 KiB, whole 64-byte lines."""


class DeviceFill:
    """The kernel for buffers of one layout."""

    def __init__(self, layout: TableLayout) -> None:
        places, sizes = layout.places, layout.sizes
        indices = ("chunk_indices_chunk64", "chunk_indices_large_block", "block_indices_cumsum")
        chunk_rows, large_block_rows, cumsum_rows = (sizes[name] // 2 for name in indices)
        self.programs = 1 + sum(-(-sizes[name] // (2 * ROWS)) for name in indices)
        self.constants = {
            "CU_SEQLENS": places["cu_seqlens"].start,
            "CHUNK_INDICES": places["chunk_indices_chunk64"].start,
            "CHUNK_OFFSETS": places["chunk_offsets_chunk64"].start,
            "UPDATE_CHUNK_OFFSETS": places["update_chunk_offsets_chunk64"].start,
            "FINAL_CHUNK_INDICES": places["final_chunk_indices_chunk64"].start,
            "LARGE_BLOCK_INDICES": places["chunk_indices_large_block"].start,
            "CUMSUM_INDICES": places["block_indices_cumsum"].start,
            "MAX_SEQS": layout.max_seqs,
            "CHUNK_ROWS": chunk_rows,
            "LARGE_BLOCK_ROWS": large_block_rows,
            "CUMSUM_ROWS": cumsum_rows,
            "CHUNK_SHIFT": CHUNK_SIZE.bit_length() - 1,
            "LARGE_BLOCK": LARGE_BLOCK_SIZE,
            "CUMSUM_BLOCK": layout.cumsum_block,
            "ROWS": ROWS,
        }
        """The kernel's compile-time arguments."""

    def __call__(self, buffer: torch.Tensor, num_seqs: int) -> None:
        """Write the chunk tables of ``num_seqs`` sequences, in the current stream's order.

        Args:
            buffer: [layout.num_elements] int32 on the device, its ``cu_seqlens`` table complete.
            num_seqs: Sequences of the step, none empty.
        """
        fill_chunk_tables_kernel[(self.programs,)](buffer, num_seqs, **self.constants)


@triton.jit
def _num_blocks(start, end, BLOCK: tl.constexpr):
    # Of scalars. On Ascend a vector's division would go through float32, wrong from 2**24 on.
    return (end - start + (BLOCK - 1)) // BLOCK


@triton.jit
def _fill_indices(
    table,
    cu_seqlens,
    num_seqs,
    tile,
    BLOCK: tl.constexpr,
    CAPACITY: tl.constexpr,
    MAX_SEQS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Write (sequence, block) rows ``tile * ROWS`` and following of ``table`` [CAPACITY, 2]."""
    first_row = tile * ROWS
    # The walk: which sequences have rows here, and how many rows those before them have.
    first_seq = 0
    end_seq = 0
    rows_before = 0
    rows = 0
    start = 0
    for seq in range(num_seqs):
        end = tl.load(cu_seqlens + seq + 1)
        end_seq = tl.where(rows < first_row + ROWS, seq + 1, end_seq)
        rows += _num_blocks(start, end, BLOCK)
        is_before = rows <= first_row
        first_seq = tl.where(is_before, seq + 1, first_seq)
        rows_before = tl.where(is_before, rows, rows_before)
        start = end
    # Both columns in one store: triton-ascend 3.2.0 aborts at two masked ones of stride 2.
    element = 2 * first_row + tl.arange(0, 2 * ROWS)
    row = element >> 1
    is_block = element - 2 * row == 1
    value = tl.zeros([2 * ROWS], dtype=tl.int32)
    start = tl.load(cu_seqlens + first_seq)
    for seq in range(first_seq, end_seq):  # each from its first row on; the next overwrites
        end = tl.load(cu_seqlens + seq + 1)
        value = tl.where(row >= rows_before, tl.where(is_block, row - rows_before, seq), value)
        rows_before += _num_blocks(start, end, BLOCK)
        start = end
    value = tl.where(row >= rows, tl.where(is_block, 0, MAX_SEQS), value)  # padding
    tl.store(table + element, value, mask=element < 2 * CAPACITY)


@triton.jit
def _fill_offsets(
    chunk_offsets,
    update_chunk_offsets,
    final_chunk_indices,
    cu_seqlens,
    num_seqs,
    CHUNK_SHIFT: tl.constexpr,
    MAX_SEQS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Write the tables that have a row for each of the ``MAX_SEQS`` sequences."""
    before = 0
    for first in range(0, MAX_SEQS + 2, TILE):
        seq = first + tl.arange(0, TILE)
        # Sequences past the step's own start and end at its last token.
        start = tl.load(cu_seqlens + seq, mask=seq <= MAX_SEQS, other=0)
        end = tl.load(cu_seqlens + seq + 1, mask=seq <= MAX_SEQS, other=0)
        chunks = (end - start + ((1 << CHUNK_SHIFT) - 1)) >> CHUNK_SHIFT
        ends = before + tl.cumsum(chunks, 0)
        offsets = ends - chunks
        tl.store(chunk_offsets + seq, offsets, mask=seq < MAX_SEQS + 2)
        update = offsets + tl.minimum(seq, num_seqs)
        tl.store(update_chunk_offsets + seq, update, mask=seq < MAX_SEQS + 2)
        final = tl.where(seq < num_seqs, ends + seq, 0)
        tl.store(final_chunk_indices + seq, final, mask=seq < MAX_SEQS)
        before += tl.sum(chunks, 0)


@triton.jit(do_not_specialize=["num_seqs"])
def fill_chunk_tables_kernel(
    buffer,
    num_seqs,
    CU_SEQLENS: tl.constexpr,
    CHUNK_INDICES: tl.constexpr,
    CHUNK_OFFSETS: tl.constexpr,
    UPDATE_CHUNK_OFFSETS: tl.constexpr,
    FINAL_CHUNK_INDICES: tl.constexpr,
    LARGE_BLOCK_INDICES: tl.constexpr,
    CUMSUM_INDICES: tl.constexpr,
    MAX_SEQS: tl.constexpr,
    CHUNK_ROWS: tl.constexpr,
    LARGE_BLOCK_ROWS: tl.constexpr,
    CUMSUM_ROWS: tl.constexpr,
    CHUNK_SHIFT: tl.constexpr,
    LARGE_BLOCK: tl.constexpr,
    CUMSUM_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Write every chunk table of ``num_seqs`` sequences, padding rows included.

    A program writes the offsets or ``ROWS`` rows of one table of indices. No two write one 64-byte
    line, and none reads what another writes.

    Args:
        buffer: int32 pointer to a packed buffer whose ``cu_seqlens`` are there, all of them; the
            next seven arguments are where its tables start.
        num_seqs: int32, sequences of the step; none is empty.
        CHUNK_ROWS: Rows of the table of chunks that the buffer has room for; likewise the others.
    """
    chunk_tiles: tl.constexpr = (CHUNK_ROWS + ROWS - 1) // ROWS
    large_tiles: tl.constexpr = (LARGE_BLOCK_ROWS + ROWS - 1) // ROWS
    cumsum_tiles: tl.constexpr = (CUMSUM_ROWS + ROWS - 1) // ROWS
    tile = tl.program_id(0)
    cu_seqlens = buffer + CU_SEQLENS
    if tile < chunk_tiles:
        _fill_indices(
            buffer + CHUNK_INDICES, cu_seqlens, num_seqs, tile,
            1 << CHUNK_SHIFT, CHUNK_ROWS, MAX_SEQS, ROWS,
        )  # fmt: skip
    elif tile < chunk_tiles + large_tiles:
        _fill_indices(
            buffer + LARGE_BLOCK_INDICES, cu_seqlens, num_seqs, tile - chunk_tiles,
            LARGE_BLOCK, LARGE_BLOCK_ROWS, MAX_SEQS, ROWS,
        )  # fmt: skip
    elif tile < chunk_tiles + large_tiles + cumsum_tiles:
        _fill_indices(
            buffer + CUMSUM_INDICES, cu_seqlens, num_seqs, tile - chunk_tiles - large_tiles,
            CUMSUM_BLOCK, CUMSUM_ROWS, MAX_SEQS, ROWS,
        )  # fmt: skip
    else:
        _fill_offsets(
            buffer + CHUNK_OFFSETS, buffer + UPDATE_CHUNK_OFFSETS, buffer + FINAL_CHUNK_INDICES,
            cu_seqlens, num_seqs, CHUNK_SHIFT, MAX_SEQS, ROWS,
        )  # fmt: skip
