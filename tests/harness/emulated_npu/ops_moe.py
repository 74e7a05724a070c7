# SPDX-License-Identifier: Apache-2.0
"""Experts: the operators of ``torch_npu``, and of vllm-ascend (``csrc/moe/``, 0.23.0.post1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .checks import NARROW, require, require_dtype, require_shape

COUNTS = 1


def moe_gating_top_k(
    x: torch.Tensor,
    k: int,
    k_group: int,
    group_count: int,
    group_select_mode: int,
    renorm: int,
    norm_type: int,
    out_flag: bool,
    routed_scaling_factor: float,
    eps: float,
    bias_opt: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The ``k`` likeliest experts of each token by softmax; ``x`` [tokens, experts].

    Returns weights [tokens, k] as ``x``, experts int32 [tokens, k], and an unused tensor.
    """
    name = "moe_gating_top_k"
    require_shape(name, "x", x, None, None)
    require_dtype(name, "x", x, torch.float32, *NARROW)
    require(k_group == group_count == 1 and bias_opt is None, name, "groups are not emulated")
    require(norm_type == 0 and not out_flag, name, "only softmax is emulated")
    require(1 <= k <= x.shape[1], name, f"{k} of {x.shape[1]} experts")
    weights, experts = x.float().softmax(-1).topk(k)
    if renorm:
        weights = weights / (weights.sum(-1, keepdim=True) + eps)
    weights = weights * routed_scaling_factor
    return weights.to(x.dtype), experts.int(), torch.empty(x.shape)


def npu_moe_init_routing_custom(
    x: torch.Tensor,
    expert_idx: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
    offset: torch.Tensor | None = None,
    active_num: int = -1,
    expert_capacity: int = -1,
    expert_num: int = -1,
    drop_pad_mode: int = 0,
    expert_tokens_num_type: int = 0,
    expert_tokens_num_flag: bool = False,
    quant_mode: int = 0,
    active_expert_range: Sequence[int] = (),
    row_idx_type: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of ``x`` [tokens, n] in the order of their experts ``expert_idx`` int32 [tokens, k].

    Returns them [tokens * k, n], the row of each choice in them (-1 for an expert outside the
    range) int32 [tokens * k], how many each expert in the range got, int64, and an unused tensor.
    """
    name = "npu_moe_init_routing_custom"
    require_shape(name, "x", x, None, None)
    require_shape(name, "expert_idx", expert_idx, len(x), None)
    require_dtype(name, "expert_idx", expert_idx, torch.int32)
    counts_only = expert_tokens_num_type == COUNTS and expert_tokens_num_flag
    require(quant_mode == -1 and scale is None and offset is None, name, "quantized: not emulated")
    require(drop_pad_mode == 0 and row_idx_type == 0, name, "an option not emulated")
    require(counts_only, name, "only counts of tokens are emulated")
    require(active_num in (-1, expert_idx.numel()), name, "dropping tokens is not emulated")
    first, last = active_expert_range or (0, expert_num)
    require(0 <= first < last <= expert_num, name, f"experts {first} to {last} of {expert_num}")
    choices = expert_idx.flatten().long()
    require(((choices >= 0) & (choices < expert_num)).all(), name, "an expert out of range")
    inside = (choices >= first) & (choices < last)
    order = torch.where(inside, choices, expert_num).argsort(stable=True)
    expanded = x[order // expert_idx.shape[1]]
    used = int(inside.sum())
    expanded[used:] = 0
    position = torch.full_like(choices, -1)
    position[order[:used]] = torch.arange(used)
    counts = torch.bincount(choices[inside] - first, minlength=last - first)
    return expanded, position.int(), counts, torch.empty(len(order))


def npu_moe_init_routing_v2(
    x: torch.Tensor, expert_idx: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """``torch_npu``: as :func:`npu_moe_init_routing_custom`."""
    return npu_moe_init_routing_custom(x, expert_idx, **options)


def npu_grouped_matmul(
    x: Sequence[torch.Tensor],
    weight: Sequence[torch.Tensor],
    *,
    bias: Sequence[torch.Tensor] | None = None,
    group_list: torch.Tensor | None = None,
    split_item: int = 0,
    group_type: int = -1,
    group_list_type: int = 0,
) -> list[torch.Tensor]:
    """``x[0]`` [rows, n] times ``weight[0]`` [g, n, m], ``group_list`` int64 [g] rows to each."""
    name = "npu_grouped_matmul"
    require(len(x) == len(weight) == 1 and bias is None, name, "lists are not emulated")
    require(split_item in (2, 3) and group_type == 0, name, "an option not emulated")
    require(group_list_type == COUNTS, name, "only a group list of counts is emulated")
    require_dtype(name, "group_list", group_list, torch.int64)
    require_shape(name, "group_list", group_list, len(weight[0]))
    require_shape(name, "weight", weight[0], None, x[0].shape[1], None)
    require_dtype(name, "weight", weight[0], x[0].dtype)
    counts = group_list.tolist()
    require(sum(counts) <= len(x[0]), name, f"groups of {counts} rows, but {len(x[0])} rows")
    # What is in no group is not written.
    result = x[0].new_zeros(len(x[0]), weight[0].shape[2])
    parts = x[0][: sum(counts)].split(counts)
    result[: sum(counts)] = torch.cat(
        [part @ matrix for part, matrix in zip(parts, weight[0], strict=True)]
    )
    return [result]


def npu_moe_token_unpermute(
    permuted_tokens: torch.Tensor, sorted_indices: torch.Tensor, probs: torch.Tensor | None = None
) -> torch.Tensor:
    """The sum [tokens, n] of each token's rows in ``permuted_tokens``, times ``probs`` [tokens, k].

    ``sorted_indices`` int32 [tokens * k]: the row of each choice.
    """
    name = "npu_moe_token_unpermute"
    require(probs is not None, name, "without probs it is not emulated")
    require_dtype(name, "sorted_indices", sorted_indices, torch.int32)
    require_shape(name, "sorted_indices", sorted_indices, probs.numel())
    indices = sorted_indices.long()
    inside = ((indices >= 0) & (indices < len(permuted_tokens))).all()
    require(inside, name, f"rows leave the {len(permuted_tokens)}")
    rows = permuted_tokens[indices].view(*probs.shape, -1)
    return (rows.float() * probs.float()[..., None]).sum(1).to(permuted_tokens.dtype)
