# SPDX-License-Identifier: Apache-2.0
"""Batched inverse of unit lower triangular matrices, blockwise."""

from __future__ import annotations

import torch

_BLOCK = 16
"""Blocks of this size are solved one by one; their joining is batched products."""

_FEW = 8
"""So few matrices are faster solved whole: the blockwise way makes ten more calls."""


def _diagonal_blocks(a: torch.Tensor, size: int) -> torch.Tensor:
    """Return a view [B, C // size, size, size] of the diagonal blocks of ``a`` [B, C, C]."""
    batch, chunk, _ = a.shape
    blocks = a.view(batch, chunk // size, size, chunk // size, size)
    return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


def solve_tril(a: torch.Tensor) -> torch.Tensor:
    """Invert I + strictly_lower(a).

    Inverses X, Y of neighbouring diagonal blocks are joined, with the block B below the first of
    them, to [[X, 0], [-Y B X, Y]], until one is left.

    Args:
        a: [..., C, C] float32; C is 16 times a power of two. Read below the diagonal only.

    Returns:
        [..., C, C] float32, lower triangular with a unit diagonal.
    """
    chunk = a.shape[-1]
    flat = a.view(-1, chunk, chunk)
    batch = flat.shape[0]
    size = chunk if batch <= _FEW else _BLOCK
    blocks = _diagonal_blocks(flat, size).reshape(-1, size, size)
    identity = torch.eye(size, dtype=a.dtype).expand_as(blocks)
    inverse = torch.linalg.solve_triangular(blocks, identity, upper=False, unitriangular=True)
    while size < chunk:
        upper_left, lower_right = inverse.view(-1, 2, size, size).unbind(1)
        size *= 2
        below = _diagonal_blocks(flat, size)[:, :, size // 2 :, : size // 2]
        product = torch.bmm(below.reshape(-1, size // 2, size // 2), upper_left)
        joined = inverse.new_zeros(batch * chunk // size, size, size)
        joined[:, : size // 2, : size // 2] = upper_left
        joined[:, size // 2 :, size // 2 :] = lower_right
        joined[:, size // 2 :, : size // 2] = torch.bmm(lower_right, product).neg_()
        inverse = joined
    return inverse.unflatten(0, a.shape[:-2])
