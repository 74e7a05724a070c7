# SPDX-License-Identifier: Apache-2.0
"""The step's tables, written for clarity: plain Python loops, one sequence at a time.

Separate from the sources on purpose. It follows the definitions of ``prepare_chunk_indices``,
``prepare_chunk_offsets``, ``prepare_update_chunk_offsets`` and ``prepare_final_chunk_indices`` in
vllm_ascend/ops/triton/fla/utils.py (0.23.0) on sequences none of which is empty.
"""

from __future__ import annotations


def blocks_of(length: int, block_size: int) -> int:
    full, rest = divmod(length, block_size)
    return full + 1 if rest else full


def block_indices(lengths: list[int], block_size: int) -> list[list[int]]:
    rows = []
    for sequence, length in enumerate(lengths):
        for block in range(blocks_of(length, block_size)):
            rows.append([sequence, block])
    return rows


def offsets(counts: list[int]) -> list[int]:
    result = [0]
    for count in counts:
        result.append(result[-1] + count)
    return result


def reference_tables(lengths: list[int], cumsum_block: int) -> dict[str, list]:
    """All tables for sequences of ``lengths`` tokens."""
    chunks = [blocks_of(length, 64) for length in lengths]
    update = offsets([count + 1 for count in chunks])
    return {
        "cu_seqlens": offsets(lengths),
        "chunk_indices_chunk64": block_indices(lengths, 64),
        "chunk_offsets_chunk64": offsets(chunks),
        "update_chunk_offsets_chunk64": update,
        "final_chunk_indices_chunk64": [end - 1 for end in update[1:]],
        "chunk_indices_large_block": block_indices(lengths, 1216),
        "block_indices_cumsum": block_indices(lengths, cumsum_block),
    }
