# SPDX-License-Identifier: Apache-2.0
"""The WY form: what a chunk writes (u) and what it reads of the state before it (w)."""

from __future__ import annotations

import torch

from ascend_gdn.fla.cpu.cumsum import ChunkDecay


def recompute_w_u_fwd(
    k: torch.Tensor,
    v: torch.Tensor,
    beta: torch.Tensor,
    decay: ChunkDecay,
    a_inverse: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return w = A^-1 (beta * from_start * k) and u = A^-1 (beta * v).

    The gates scale the columns of A^-1 rather than the rows of k and v: less to multiply, and k
    stays one copy for all value heads of its group.

    Args:
        k: [NC, Hk, C, K]: keys, normalised.
        v: [NC, Hv, C, V]: values.
        beta: [NC, Hv, C] float32, 0 in the padding.
        decay: Of the same chunks.
        a_inverse: [NC, Hv, C, C] float32, of :func:`~ascend_gdn.fla.cpu.solve_tril.solve_tril`.

    Returns:
        w [NC, Hv, C, K] and u [NC, Hv, C, V], in k's dtype.
    """
    num_chunks, value_heads, chunk, value_dim = v.shape
    key_heads, key_dim = k.shape[1], k.shape[3]
    scaled = k.new_empty(a_inverse.shape)
    torch.mul(a_inverse, beta.unsqueeze(-2), out=scaled)
    u = torch.bmm(scaled.view(-1, chunk, chunk), v.view(-1, chunk, value_dim))
    torch.mul(a_inverse, (beta * decay.from_start).unsqueeze(-2), out=scaled)
    grouped = scaled.view(num_chunks * key_heads, -1, chunk)
    w = torch.bmm(grouped, k.view(-1, chunk, key_dim))
    return w.view(num_chunks, value_heads, chunk, key_dim), u.view_as(v)
