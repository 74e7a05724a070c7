# SPDX-License-Identifier: Apache-2.0
"""What a Qwen3.5's full attention starts with, on the CPU: split, norms and rotary embedding.

The kernel under ``torch.ops.vllm.triton_split_qkv_rmsnorm_mrope``, of vllm-ascend 0.23.0.post1's
``ops/triton/linearnorm/split_qkv_rmsnorm_mrope.py``. That operator itself stays upstream's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .checks import NARROW, require, require_contiguous, require_dtype, require_shape

NAME = "split_qkv_rmsnorm_mrope_kernel"


def get_vectorcore_num() -> int:
    """Of the device that ``torch.npu.get_device_name`` names; kernels divide their work by it."""
    return 48


def split_qkv_rmsnorm_mrope(
    grid: Sequence[int],
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    q_bias: torch.Tensor | None,
    k_weight: torch.Tensor,
    k_bias: torch.Tensor | None,
    cos_sin: torch.Tensor,
    out_q: torch.Tensor,
    out_k: torch.Tensor,
    out_v: torch.Tensor,
    out_gate: torch.Tensor,
    num_tokens: int,
    front_core_num: int,
    num_tokens_each_front_core: int,
    num_tokens_each_tail_core: int,
    num_q_heads: int,
    num_kv_heads: int,
    head_size: int,
    q_size: int,
    kv_size: int,
    eps: float,
    mrope_section_t: int,
    mrope_section_h: int,
    mrope_section_w: int,
    has_bias: bool,
    is_interleaved: bool,
    rope_dim: int,
    half_rope_dim: int,
    is_partial_rope: bool,
    gate_size: int,
) -> None:
    """``qkv`` [tokens, q (and gate, head by head) | k | v]; ``cos_sin`` [3, tokens, rope_dim].

    The norms multiply by the weights [head_size] as they are. The kernel takes addresses alone: its
    arguments must be contiguous, and of the shapes it counts with.
    """
    require(not has_bias, NAME, "biases are not emulated")
    require(is_interleaved, NAME, "only interleaved sections are emulated")
    sections = (mrope_section_t, mrope_section_h, mrope_section_w)
    require(sum(sections) == half_rope_dim, NAME, f"sections {sections} of {half_rope_dim}")
    require(rope_dim == 2 * half_rope_dim <= head_size, NAME, f"{rope_dim} of {head_size} rotate")
    require(is_partial_rope == (rope_dim != head_size), NAME, "is_partial_rope is wrong")
    require(gate_size in (0, q_size), NAME, f"gates of {gate_size}, queries of {q_size}")
    fronts = front_core_num * num_tokens_each_front_core
    tails = (grid[0] - front_core_num) * num_tokens_each_tail_core
    require(fronts + tails == num_tokens, NAME, f"{fronts} + {tails} of {num_tokens} tokens")

    tensors = {
        "qkv": (qkv, num_tokens, q_size + gate_size + 2 * kv_size),
        "q_weight": (q_weight, head_size),
        "k_weight": (k_weight, head_size),
        "cos_sin": (cos_sin, 3, num_tokens, rope_dim),
    }
    for argument, (tensor, *shape) in tensors.items():
        require_dtype(NAME, argument, tensor, torch.float32, *NARROW)
        require_shape(NAME, argument, tensor, *shape)
        require_contiguous(NAME, **{argument: tensor})

    q_gate, k, v = qkv.split([q_size + gate_size, kv_size, kv_size], -1)
    q_gate = q_gate.reshape(num_tokens, num_q_heads, (q_size + gate_size) // num_q_heads)
    q = q_gate[..., :head_size]
    k = k.reshape(num_tokens, num_kv_heads, head_size)
    cos, sin = _of_each_frequency(cos_sin.float(), mrope_section_h, mrope_section_w).chunk(2, -1)
    for heads, weight, out in ((q, q_weight, out_q), (k, k_weight, out_k)):
        normed = _rms_norm(heads.float(), weight.float(), eps)
        first, second, rest = normed.split([half_rope_dim, half_rope_dim, head_size - rope_dim], -1)
        rotated = (first * cos - second * sin, second * cos + first * sin)
        out.copy_(torch.cat([*rotated, rest], -1).flatten(1))
    out_v.copy_(v)
    if gate_size:
        out_gate.copy_(q_gate[..., head_size:].flatten(1))


def _of_each_frequency(cos_sin: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[tokens, 1, rope_dim]: of the position in time, height or width, in turn; then time's."""
    frequency = torch.arange(cos_sin.shape[2] // 2)
    axis = frequency % 3
    axis[(axis == 1) & (frequency >= 3 * height) | (axis == 2) & (frequency >= 3 * width)] = 0
    return cos_sin[axis.repeat(2), :, torch.arange(cos_sin.shape[2])].T[:, None]


def _rms_norm(heads: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return heads * torch.rsqrt((heads * heads).mean(-1, keepdim=True) + eps) * weight
