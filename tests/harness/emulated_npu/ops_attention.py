# SPDX-License-Identifier: Apache-2.0
"""Attention and its cache, of ``torch_npu``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .checks import require, require_contiguous, require_dtype, require_shape

SCORE = "npu_fused_infer_attention_score"
EVERY = 0
"""Sparse mode: without a mask, every query sees every key."""
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
    require_contiguous(name, key_cache=key_cache, value_cache=value_cache)
    _store(name, key, value, key_cache, value_cache, slot_indices)


def _store(
    name: str,
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_indices: torch.Tensor,
) -> None:
    require_dtype(name, "slot_indices", slot_indices, torch.int32)
    require_shape(name, "slot_indices", slot_indices, len(key))
    slots = slot_indices.long()
    for part, tensor, cache in (("key", key, key_cache), ("value", value, value_cache)):
        require_shape(name, part, tensor, len(key), *cache.shape[2:])
        require_dtype(name, part, tensor, cache.dtype)
        size = cache.shape[0] * cache.shape[1]
        require((slots < size).all(), name, f"slots {slots.tolist()} leave the {size}")
        block, row = slots[slots >= 0] // cache.shape[1], slots[slots >= 0] % cache.shape[1]
        cache[block, row] = tensor[slots >= 0]


def npu_scatter_pa_kv_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    cache_mode: str,
) -> None:
    """As :func:`_npu_reshape_and_cache`; the caches' blocks need not follow each other closely."""
    name = "npu_scatter_pa_kv_cache"
    require(cache_mode == "Norm", name, f"cache_mode {cache_mode}")
    require_contiguous(name, key=key, value=value, slot_mapping=slot_mapping)
    require_contiguous(name, key_block=key_cache[0], value_block=value_cache[0])
    _store(name, key, value, key_cache, value_cache, slot_mapping)


def npu_fused_infer_attention_score(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    atten_mask: torch.Tensor | None = None,
    actual_seq_lengths: Sequence[int] | None = None,
    actual_seq_lengths_kv: Sequence[int] | None = None,
    antiquant_scale: torch.Tensor | None = None,
    block_table: torch.Tensor | None = None,
    num_heads: int = 1,
    scale: float = 1.0,
    input_layout: str = "BSH",
    num_key_value_heads: int = 0,
    sparse_mode: int = 0,
    inner_precise: int = 0,
    block_size: int = 0,
    antiquant_mode: int = 0,
    softmax_lse_flag: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``query`` [tokens, heads, dim] in the layout TND; returns its like, and the log-sum-exp
    [tokens, heads, 1] float32 if it is asked for.

    ``actual_seq_lengths`` are cumulative. With a ``block_table`` [requests, n], ``key`` and
    ``value`` are caches [blocks, size, heads * dim], and ``actual_seq_lengths_kv`` a length each;
    without one they are [tokens, heads, dim], and these are cumulative too.
    """
    require(input_layout == "TND", SCORE, f"not emulated: layout {input_layout}")
    require(antiquant_scale is None and antiquant_mode == 0, SCORE, "not emulated: quantized")
    require(sparse_mode in (EVERY, CAUSAL), SCORE, f"not emulated: sparse mode {sparse_mode}")
    causal = sparse_mode == CAUSAL
    if causal:
        require(
            atten_mask is not None and tuple(atten_mask.shape) == (MASK, MASK),
            SCORE,
            f"sparse mode {CAUSAL} goes with a mask of {MASK} x {MASK}",
        )
    else:
        require(atten_mask is None, SCORE, "not emulated: a mask of one's own")
    require_shape(SCORE, "query", query, None, num_heads, None)
    paged = block_table is not None
    # The blocks of a cache need not follow each other closely.
    parts = {"key": key[0], "value": value[0]} if paged else {"key": key, "value": value}
    require_contiguous(SCORE, query=query, **parts)
    ends = [int(end) for end in actual_seq_lengths]
    kv_lengths = [int(length) for length in actual_seq_lengths_kv]
    require(ends == sorted(ends), SCORE, f"actual_seq_lengths {ends} fall")
    require(ends[-1] == len(query), SCORE, f"{len(query)} queries, but lengths up to {ends[-1]}")
    require(
        len(kv_lengths) == len(ends), SCORE, f"{len(ends)} requests, {len(kv_lengths)} kv lengths"
    )
    if paged:
        _check_blocks(key, value, block_table, kv_lengths, block_size)
    else:
        require(kv_lengths[-1] == len(key), SCORE, f"kv lengths {kv_lengths} for {len(key)} keys")
    output = torch.empty_like(query)
    lse = torch.empty(len(query), num_heads, 1) if softmax_lse_flag else torch.empty(0)
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
        output[start:end] = _attend(query[start:end], keys, values, scale, causal)
        if softmax_lse_flag:
            lse[start:end] = _log_sum_exp(query[start:end], keys, scale, causal)
        start = end
    return output, lse


def npu_attention_update(
    lse: Sequence[torch.Tensor], local_out: Sequence[torch.Tensor], update_type: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention over all keys, from that over some of them each: ``lse`` [n], ``local_out``
    [n, dim], float32. An ``lse`` of infinity, either way, is that of no keys."""
    name = "npu_attention_update"
    require(update_type == 0, name, "not emulated: the log-sum-exp of the whole")
    require(len(lse) == len(local_out) > 0, name, f"{len(lse)} lse, {len(local_out)} outputs")
    for each, out in zip(lse, local_out, strict=True):
        require_shape(name, "lse", each, len(lse[0]))
        require_shape(name, "local_out", out, len(lse[0]), local_out[0].shape[1])
        require_dtype(name, "lse", each, torch.float32)
        require_dtype(name, "local_out", out, torch.float32, torch.float16, torch.bfloat16)
    require(local_out[0].shape[1] % 8 == 0, name, "the head size is no multiple of 8")
    stacked = torch.stack(list(lse))
    weights = stacked.masked_fill(stacked.isinf(), float("-inf")).softmax(0)
    return (weights[..., None] * torch.stack(list(local_out))).sum(0), None


def npu_paged_cache_load(
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    *,
    seq_starts: torch.Tensor | None = None,
    key: torch.Tensor,
    value: torch.Tensor,
) -> None:
    """Of ``torch_npu.atb``: write the first ``context_lens`` [requests] tokens of each request from
    caches [blocks, size, heads, dim] to ``key``, ``value`` [tokens, heads, dim]."""
    name = "npu_paged_cache_load"
    for argument, tensor in (("block_table", block_table), ("context_lens", context_lens)):
        require_dtype(name, argument, tensor, torch.int32)
    require(seq_starts is None or not seq_starts.any(), name, "not emulated: a start of its own")
    require_shape(name, "context_lens", context_lens, len(block_table))
    require(context_lens.sum() == len(key) == len(value), name, "key and value are of another size")
    size, row = key_cache.shape[1], 0
    for blocks, length in zip(block_table.long(), context_lens.tolist(), strict=True):
        used = blocks[: -(-length // size)]
        require(len(used) * size >= length, name, f"{len(used)} blocks for {length} tokens")
        for out, cache in ((key, key_cache), (value, value_cache)):
            out[row : row + length] = cache[used].flatten(0, 1)[:length]
        row += length


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


def _visible(queries: torch.Tensor, keys: torch.Tensor, causal: bool) -> torch.Tensor:
    """bool [queries, keys]: the last query is at the last key."""
    every = torch.ones(len(queries), len(keys), dtype=torch.bool)
    if not causal:
        return every
    require(len(keys) >= len(queries), SCORE, f"{len(queries)} queries of {len(keys)} keys")
    return every.tril(len(keys) - len(queries))


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, causal: bool
) -> torch.Tensor:
    """[queries, heads, dim] of one request; zeros without keys."""
    if len(keys) == 0:
        return torch.zeros_like(queries)
    group = queries.shape[1] // keys.shape[1]
    return torch.nn.functional.scaled_dot_product_attention(
        queries.transpose(0, 1),
        keys.transpose(0, 1).repeat_interleave(group, 0),
        values.transpose(0, 1).repeat_interleave(group, 0),
        attn_mask=_visible(queries, keys, causal),
        scale=scale,
    ).transpose(0, 1)


def _log_sum_exp(
    queries: torch.Tensor, keys: torch.Tensor, scale: float, causal: bool
) -> torch.Tensor:
    """[queries, heads, 1]; infinity without keys."""
    if len(keys) == 0:
        return torch.full((*queries.shape[:2], 1), float("inf"))
    keys_by_head = keys.repeat_interleave(queries.shape[1] // keys.shape[1], 1).float()
    scores = torch.einsum("qhd,khd->qhk", queries.float(), keys_by_head) * scale
    hidden = ~_visible(queries, keys, causal)[:, None]
    return scores.masked_fill(hidden, float("-inf")).logsumexp(-1, keepdim=True)
