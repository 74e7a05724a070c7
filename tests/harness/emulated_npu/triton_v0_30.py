# SPDX-License-Identifier: Apache-2.0
"""Triton functions and kernels that vllm-ascend 0.30.0rc2 has and 0.23.0 has not, or otherwise.

The functions of the chunk rule take the decay by head, [1, H, T].
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from . import triton_chunk, triton_context_parallel
from .checks import require, require_contiguous, require_dtype, require_shape
from .ops_recurrent import npu_fused_gdn_gating
from .triton_small import compute_slot_mapping as slot_mapping_of_0_23


def chunk_scaled_dot_kkt_fwd(
    k: torch.Tensor,
    beta: torch.Tensor,
    g_cumsum: torch.Tensor,
    cu_seqlens: torch.Tensor | None = None,
    chunk_indices: torch.Tensor | None = None,
    chunk_size: int = 64,
    output_dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    return triton_chunk.chunk_scaled_dot_kkt_fwd(
        k, beta, by_token("chunk_scaled_dot_kkt_fwd", g_cumsum), cu_seqlens, chunk_indices,
        chunk_size, output_dtype,
    )  # fmt: skip


def recompute_w_u_fwd(
    k: torch.Tensor,
    v: torch.Tensor,
    beta: torch.Tensor,
    g_cumsum: torch.Tensor,
    A: torch.Tensor,
    cu_seqlens: torch.Tensor | None = None,
    chunk_indices: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    g_cumsum = by_token("recompute_w_u_fwd", g_cumsum)
    return triton_chunk.recompute_w_u_fwd(k, v, beta, g_cumsum, A, cu_seqlens, chunk_indices)


def chunk_gated_delta_rule_fwd_hupdate(*, g: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    g = by_token("chunk_gated_delta_rule_fwd_hupdate", g)
    return triton_context_parallel.chunk_gated_delta_rule_fwd_hupdate(g=g, **kwargs)


def by_token(name: str, g: torch.Tensor) -> torch.Tensor:
    require_contiguous(name, g=g)  # the kernel reads it by address
    return g.transpose(1, 2)


def fused_gdn_gating(
    grid: Sequence[int],
    g: torch.Tensor,
    beta_output: torch.Tensor,
    A_log: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    dt_bias: torch.Tensor,
    seq_len: int,
    NUM_HEADS: int,
    NUM_BATCHES: int,
    beta: float,
    threshold: float,
    *,
    BLK_HEADS: int,
    BLK_BATCHES: int,
    ROW_ITER: int,
) -> None:
    """``fused_gdn_gating_kernel`` of ``ops/triton/fused_gdn_gating.py``."""
    name = "fused_gdn_gating_kernel"
    require_contiguous(name, a=a, b=b)
    require_shape(name, "a", a, NUM_BATCHES, NUM_HEADS)
    require(grid[0] * ROW_ITER * BLK_BATCHES >= NUM_BATCHES, name, "rows are left out")
    # It takes parameters of any floating type, and computes in float32.
    found_g, found_beta = npu_fused_gdn_gating(
        A_log.float(), a, b, dt_bias.float(), beta, threshold
    )
    g.copy_(found_g)
    beta_output.copy_(found_beta)


def gather_ssm_states(
    grid: Sequence[int],
    state: torch.Tensor,
    indices: torch.Tensor,
    has_initial_state: torch.Tensor,
    output: torch.Tensor,
    *strides: int,
    row_size: int,
    BLOCK_SIZE: int,
    num_warps: int,
) -> None:
    """``_gather_ssm_states_kernel`` of ``ops/triton/mamba/state_index.py``."""
    used = indices[has_initial_state].long()
    inside = ((used >= 0) & (used < len(state))).all()
    require(inside, "_gather_ssm_states_kernel", f"{used.tolist()} leave the {len(state)} blocks")
    output.zero_()
    output[has_initial_state] = state[used].to(output.dtype)


def scatter_ssm_states(
    grid: Sequence[int],
    state: torch.Tensor,
    indices: torch.Tensor,
    source: torch.Tensor,
    *strides: int,
    row_size: int,
    BLOCK_SIZE: int,
    num_warps: int,
) -> None:
    """``_scatter_ssm_states_kernel`` of ``ops/triton/mamba/state_index.py``."""
    used = indices.long()
    inside = ((used >= 0) & (used < len(state))).all()
    require(inside, "_scatter_ssm_states_kernel", f"{used.tolist()} leave the {len(state)} blocks")
    state[used] = source.to(state.dtype)


def compute_slot_mapping(
    grid: Sequence[int],
    *args: Any,
    KV_CACHE_BLOCK_SIZE: int,
    BLOCKS_PER_KV_BLOCK: int,
    TOTAL_CP_WORLD_SIZE: int,
    TOTAL_CP_RANK: int,
    CP_KV_CACHE_INTERLEAVE_SIZE: int,
    PAD_ID: int,
    TILE_BLOCK_SIZE: int,
    BLOCK_TABLE_WINDOW_SIZE: int,
    IS_CIRCULAR: bool,
) -> None:
    """``_compute_slot_mapping_kernel`` of ``ops/triton/compute_slot_mapping.py``."""
    require(not IS_CIRCULAR, "_compute_slot_mapping_kernel", "circular caches are not emulated")
    slot_mapping_of_0_23(
        grid, *args, TOTAL_CP_WORLD_SIZE=TOTAL_CP_WORLD_SIZE, TOTAL_CP_RANK=TOTAL_CP_RANK,
        CP_KV_CACHE_INTERLEAVE_SIZE=CP_KV_CACHE_INTERLEAVE_SIZE, PAD_ID=PAD_ID,
        BLOCK_SIZE=TILE_BLOCK_SIZE,
    )  # fmt: skip


def compute_slot_mapping_fused_groups(
    group_count: int,
    num_reqs: int,
    num_tokens: int,
    max_num_tokens: int,
    query_start_loc: torch.Tensor,
    positions: torch.Tensor,
    block_table_addrs: torch.Tensor,
    slot_mapping_addrs: torch.Tensor,
    block_table_strides: torch.Tensor,
    block_sizes: torch.Tensor,
    min_block_size: int,
    *,
    pad_id: int,
    is_circular_ptr: torch.Tensor | None = None,
) -> None:
    """The slots of several groups at once, each group's int32 arrays by their addresses."""
    name = "compute_slot_mapping_fused_groups"
    circular = is_circular_ptr is not None and bool(is_circular_ptr.any())
    require(not circular, name, "circular caches are not emulated")
    require_dtype(name, "positions", positions, torch.int32, torch.int64)
    bounds = query_start_loc[: num_reqs + 1].long()
    request = torch.repeat_interleave(torch.arange(num_reqs), bounds.diff())
    position = positions[: int(bounds[-1])]
    for group in range(group_count):
        stride, size = int(block_table_strides[group]), int(block_sizes[group])
        table = at_address(int(block_table_addrs[group]), num_reqs * stride).view(num_reqs, stride)
        slots = at_address(int(slot_mapping_addrs[group]), max_num_tokens)
        block = table[request, position // size]
        slots[: len(position)] = block * size + (position % size).int()
        slots[num_tokens:] = pad_id


def at_address(address: int, count: int) -> torch.Tensor:
    """[count] int32 in the memory there."""
    return torch.frombuffer((ctypes.c_int32 * count).from_address(address), dtype=torch.int32)
