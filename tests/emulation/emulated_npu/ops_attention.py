# SPDX-License-Identifier: Apache-2.0
"""Attention and its cache, of ``torch_npu``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .checks import require, require_contiguous, require_dtype, require_shape

SCORE = "npu_fused_infer_attention_score"
CAUSAL = 3
"""Sparse mode: the last query sees every key, the one before all but the last, and so on."""
MASK = 2048
"""The mask's size that goes with it."""


def _npu_reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_indices: torch.Tensor,
) -> None:
    """Store ``key``, ``value`` [tokens, heads, dim] at slots of caches [blocks, size, heads, dim].

    A negative slot is left out.
    """
    name = "_npu_reshape_and_cache"
    require_dtype(name, "slot_indices", slot_indices, torch.int32)
    require_shape(name, "slot_indices", slot_indices, len(key))
    slots = slot_indices.long()
    for part, tensor, cache in (("key", key, key_cache), ("value", value, value_cache)):
        require_shape(name, part, tensor, len(key), *cache.shape[2:])
        require_dtype(name, part, tensor, cache.dtype)
        require_contiguous(name, **{f"{part}_cache": cache})
        size = cache.shape[0] * cache.shape[1]
        require((slots < size).all(), name, f"slots {slots.tolist()} leave the {size}")
        cache.view(size, *cache.shape[2:])[slots[slots >= 0]] = tensor[slots >= 0]


def npu_fused_infer_attention_score(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    atten_mask: torch.Tensor | None = None,
    actual_seq_lengths: Sequence[int] | None = None,
    actual_seq_lengths_kv: Sequence[int] | None = None,
    block_table: torch.Tensor | None = None,
    num_heads: int = 1,
    scale: float = 1.0,
    input_layout: str = "BSH",
    num_key_value_heads: int = 0,
    sparse_mode: int = 0,
    block_size: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``query`` [tokens, heads, dim] in the layout TND; returns its like, and no log-sum-exp.

    ``actual_seq_lengths`` are cumulative. With a ``block_table`` [requests, n], ``key`` and
    ``value`` are caches [blocks, size, heads * dim], and ``actual_seq_lengths_kv`` a length each;
    without one they are [tokens, heads, dim], and these are cumulative too.
    """
    require(input_layout == "TND" and sparse_mode == CAUSAL, SCORE, "not emulated: not TND, causal")
    require(
        atten_mask is not None and tuple(atten_mask.shape) == (MASK, MASK),
        SCORE,
        f"sparse mode {CAUSAL} goes with a mask of {MASK} x {MASK}",
    )
    require_shape(SCORE, "query", query, None, num_heads, None)
    ends = list(actual_seq_lengths)
    kv_lengths = list(actual_seq_lengths_kv)
    require(ends == sorted(ends), SCORE, f"actual_seq_lengths {ends} fall")
    require(ends[-1] == len(query), SCORE, f"{len(query)} queries, but lengths up to {ends[-1]}")
    require(
        len(kv_lengths) == len(ends), SCORE, f"{len(ends)} requests, {len(kv_lengths)} kv lengths"
    )
    paged = block_table is not None
    if paged:
        _check_blocks(key, value, block_table, kv_lengths, block_size)
    output = torch.empty_like(query)
    start = kv_start = 0
    for i, (end, kv) in enumerate(zip(ends, kv_lengths, strict=True)):
        if paged:
            blocks = block_table[i, : -(-kv // block_size)].long()
            keys = key[blocks].reshape(-1, num_key_value_heads, query.shape[2])[:kv]
            values = value[blocks].reshape(-1, num_key_value_heads, query.shape[2])[:kv]
        else:
            require(kv_start <= kv <= len(key), SCORE, f"kv lengths {kv_lengths}: {len(key)} keys")
            keys, values = key[kv_start:kv], value[kv_start:kv]
            kv_start = kv
        output[start:end] = _attend(query[start:end], keys, values, scale)
        start = end
    return output, torch.empty(0)


def _check_blocks(
    key: torch.Tensor,
    value: torch.Tensor,
    block_table: torch.Tensor,
    kv_lengths: list[int],
    block_size: int,
) -> None:
    require_dtype(SCORE, "block_table", block_table, torch.int32)
    require(len(block_table) >= len(kv_lengths), SCORE, "block_table has fewer rows than requests")
    for name, cache in (("key", key), ("value", value)):
        require_shape(SCORE, name, cache, None, block_size, None)
    for row, length in zip(block_table.tolist(), kv_lengths, strict=False):
        used = row[: -(-length // block_size)]
        require(
            len(used) * block_size >= length and all(0 <= block < len(key) for block in used),
            SCORE,
            f"blocks {used} of {len(key)} for {length} tokens",
        )


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
) -> torch.Tensor:
    """[queries, heads, dim] of one request, the last query at the last key."""
    require(len(keys) >= len(queries), SCORE, f"{len(queries)} queries of {len(keys)} keys")
    group = queries.shape[1] // keys.shape[1]
    mask = torch.ones(len(queries), len(keys), dtype=torch.bool).tril(len(keys) - len(queries))
    return torch.nn.functional.scaled_dot_product_attention(
        queries.transpose(0, 1),
        keys.transpose(0, 1).repeat_interleave(group, 0),
        values.transpose(0, 1).repeat_interleave(group, 0),
        attn_mask=mask,
        scale=scale,
    ).transpose(0, 1)
