# SPDX-License-Identifier: Apache-2.0
"""Norms, the gated activation and the rotary embedding, of ``torch_npu`` and of vllm-ascend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from .checks import NARROW, require, require_contiguous, require_dtype, require_shape

FLOATS = (torch.float32, *NARROW)


def _rms_norm(
    name: str, x: torch.Tensor, gamma: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    require_dtype(name, "x", x, *FLOATS)
    require_shape(name, "gamma", gamma, x.shape[-1])
    wide = x.float()
    rstd = torch.rsqrt((wide * wide).mean(-1, keepdim=True) + epsilon)
    return (wide * rstd * gamma.float()).to(x.dtype), rstd


def npu_rms_norm(
    self: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    """``torch_npu``: the norm, and the reciprocal of the root mean square."""
    return _rms_norm("npu_rms_norm", self, gamma, epsilon)


def npu_gemma_rms_norm(
    x: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    """vllm-ascend: the norm times ``1 + gamma``."""
    return _rms_norm("npu_gemma_rms_norm", x, 1 + gamma.float(), epsilon)


def npu_add_rms_norm(
    x1: torch.Tensor, x2: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``torch_npu``: the norm of the sum, its reciprocal root mean square, and the sum."""
    name = "npu_add_rms_norm"
    require_shape(name, "x2", x2, *x1.shape)
    require_dtype(name, "x2", x2, x1.dtype)
    total = x1 + x2
    return (*_rms_norm(name, total, gamma, epsilon), total)


def npu_add_rms_norm_bias(
    x1: torch.Tensor,
    x2: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor | None = None,
    epsilon: float = 1e-6,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """vllm-ascend: as :func:`npu_add_rms_norm`, and ``beta`` added to the norm."""
    normed, rstd, total = npu_add_rms_norm(x1, x2, gamma, epsilon)
    return (normed if beta is None else normed + beta), rstd, total


def npu_swiglu(self: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """``torch_npu``: ``silu`` of the first half times the second."""
    require_dtype("npu_swiglu", "self", self, *FLOATS)
    gate, up = self.chunk(2, dim)
    return functional.silu(gate) * up


def _npu_rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox_style: bool,
) -> None:
    """``torch_npu``, in place: ``query``, ``key`` [tokens, heads * head_size].

    ``cos_sin_cache`` [positions, head_size]: cosines, then sines.
    """
    name = "_npu_rotary_embedding"
    require(is_neox_style, name, "only the neox style is emulated")
    require_shape(name, "cos_sin_cache", cos_sin_cache, None, head_size)
    require_shape(name, "positions", positions, len(query))
    require_dtype(name, "positions", positions, torch.int32, torch.int64)
    require_contiguous(name, query=query, key=key)
    inside = ((positions >= 0) & (positions < len(cos_sin_cache))).all()
    require(inside, name, f"positions leave the {len(cos_sin_cache)} of the cache")
    cos, sin = cos_sin_cache[positions][:, None].chunk(2, -1)
    for tensor in (query, key):
        if tensor.numel() == 0:
            continue
        heads = tensor.view(len(tensor), -1, head_size)
        first, second = heads.chunk(2, -1)
        heads.copy_(torch.cat([first * cos - second * sin, second * cos + first * sin], -1))


def npu_mrope(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    *,
    mrope_section: Sequence[int],
    rotary_mode: str = "half",
    cache_mode: str = "default",
) -> tuple[torch.Tensor, torch.Tensor]:
    """``torch_npu``: ``query``, ``key`` [tokens, heads * head_size], partly rotated.

    ``cos_sin_cache`` [positions, as many]: cosines, then sines. ``positions`` [tokens].
    """
    name = "npu_mrope"
    require(list(mrope_section) == [0, 0, 0], name, "sections are not emulated")
    require((rotary_mode, cache_mode) == ("half", "default"), name, "a mode not emulated")
    rotated = cos_sin_cache.shape[1]
    results = []
    for tensor in (query, key):
        heads = tensor.reshape(len(tensor), -1, head_size)
        first = heads[..., :rotated].flatten(1).contiguous()
        unused = torch.empty(len(tensor), 0, dtype=tensor.dtype)
        _npu_rotary_embedding(positions, first, unused, rotated, cos_sin_cache, True)
        first = first.view(len(tensor), -1, rotated)
        results.append(torch.cat([first, heads[..., rotated:]], -1).reshape(tensor.shape))
    return results[0], results[1]
