# SPDX-License-Identifier: Apache-2.0
"""The other Triton functions and kernels that a Qwen3-Next takes, on the CPU.

By the names and with the arguments of vllm-ascend 0.23.0.post1 and vLLM 0.23.0.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from .checks import require, require_contiguous, require_dtype, require_shape


class Kernel:
    """What stands for a ``triton.jit`` function: ``kernel[grid](…)`` calls ``launch(grid, …)``."""

    def __init__(self, launch: Callable[..., None]) -> None:
        self._launch = launch

    def __getitem__(self, grid: Sequence[int]) -> Callable[..., None]:
        return lambda *args, **kwargs: self._launch(grid, *args, **kwargs)


def l2norm_fwd(
    x: torch.Tensor, eps: float = 1e-6, output_dtype: torch.dtype | None = None
) -> torch.Tensor:
    """``x`` over its length, along the last dimension."""
    wide = x.float()
    norm = wide * torch.rsqrt((wide * wide).sum(-1, keepdim=True) + eps)
    return norm.to(output_dtype or x.dtype)


def clear_ssm_states(ssm_states: torch.Tensor, has_initial_state: torch.Tensor) -> None:
    """Zero the rows [rows, ...] that have no state, in place."""
    name = "clear_ssm_states"
    require_shape(name, "has_initial_state", has_initial_state, len(ssm_states))
    require_contiguous(name, ssm_states=ssm_states)
    ssm_states[~has_initial_state.bool()] = 0


def fused_qkvzba_split_reshape_cat(
    mixed_qkvz: torch.Tensor,
    mixed_ba: torch.Tensor,
    num_heads_qk: int,
    num_heads_v: int,
    head_qk: int,
    head_v: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """From interleaved by key head to [tokens, q | k | v], z [tokens, Hv, V], b and a."""
    name = "fused_qkvzba_split_reshape_cat"
    tokens = len(mixed_qkvz)
    group = num_heads_v // num_heads_qk
    sizes = [head_qk, head_qk, group * head_v, group * head_v]
    require_shape(name, "mixed_qkvz", mixed_qkvz, None, num_heads_qk * sum(sizes))
    require_shape(name, "mixed_ba", mixed_ba, tokens, num_heads_qk * 2 * group)
    require_contiguous(name, mixed_qkvz=mixed_qkvz, mixed_ba=mixed_ba)
    q, k, v, z = mixed_qkvz.view(tokens, num_heads_qk, -1).split(sizes, -1)
    b, a = mixed_ba.view(tokens, num_heads_qk, -1).split([group, group], -1)
    mixed_qkv = torch.cat([part.reshape(tokens, -1) for part in (q, k, v)], -1)
    return (
        mixed_qkv,
        z.reshape(tokens, num_heads_v, head_v).contiguous(),
        b.reshape(tokens, num_heads_v).contiguous(),
        a.reshape(tokens, num_heads_v).contiguous(),
    )


def layer_norm_fwd_npu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    z: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
) -> tuple[torch.Tensor, None, torch.Tensor]:
    """``norm(x) * silu(z)``, both [rows, n]; the root-mean-square norm only."""
    name = "layer_norm_fwd_npu"
    whole = group_size in (None, x.shape[1])
    require(is_rms_norm and whole and bias is None, name, "an option not emulated")
    require(norm_before_gate and out is None, name, "an option not emulated")
    wide = x.float()
    rstd = torch.rsqrt((wide * wide).mean(-1, keepdim=True) + eps)
    result = wide * rstd * weight.float()
    if z is not None:
        result = result * functional.silu(z.float())
    return result.to(x.dtype), None, rstd[:, 0]


def compute_slot_mapping(
    grid: Sequence[int],
    num_tokens: int,
    max_num_tokens: int,
    query_start_loc: torch.Tensor,
    positions: torch.Tensor,
    block_table: torch.Tensor,
    block_table_stride: int,
    block_size: int,
    slot_mapping: torch.Tensor,
    *,
    TOTAL_CP_WORLD_SIZE: int,
    TOTAL_CP_RANK: int,
    CP_KV_CACHE_INTERLEAVE_SIZE: int,
    PAD_ID: int,
    BLOCK_SIZE: int,
) -> None:
    """``_compute_slot_mapping_kernel`` of vLLM's ``v1/worker/block_table.py``."""
    name = "_compute_slot_mapping_kernel"
    require(TOTAL_CP_WORLD_SIZE == 1, name, "context parallel is not emulated")
    require(block_table.stride(0) == block_table_stride, name, "block_table_stride is another")
    requests = grid[0] - 1
    bounds = query_start_loc[: requests + 1].long()
    request = torch.repeat_interleave(torch.arange(requests), bounds.diff())
    tokens = int(bounds[-1])
    position = positions[:tokens]
    require_dtype(name, "positions", positions, torch.int32, torch.int64)
    block = block_table[request, position // block_size].long()
    slot_mapping[:tokens] = block * block_size + position % block_size
    slot_mapping[num_tokens:max_num_tokens] = PAD_ID


def batch_memcpy(
    grid: Sequence[int],
    src_ptrs: torch.Tensor,
    dst_ptrs: torch.Tensor,
    sizes: torch.Tensor,
    *,
    BLOCK_SIZE: int,
) -> None:
    """``batch_memcpy_kernel`` of vllm-ascend's ``ops/triton/batch_memcpy.py``."""
    for pointers in (src_ptrs, dst_ptrs):
        require_shape("batch_memcpy_kernel", "pointers", pointers, grid[0])
    triples = zip(src_ptrs.tolist(), dst_ptrs.tolist(), sizes.tolist(), strict=True)
    for source, destination, size in triples:
        ctypes.memmove(destination, source, size)
