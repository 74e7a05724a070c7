# SPDX-License-Identifier: Apache-2.0
"""Output of each chunk: what its queries read of the state before it and of the chunk itself."""

from __future__ import annotations

import torch

from ascend_gdn.fla.cpu.cumsum import ChunkDecay


def chunk_fwd_o(
    q: torch.Tensor,
    k: torch.Tensor,
    v_new: torch.Tensor,
    h: torch.Tensor,
    decay: ChunkDecay,
) -> torch.Tensor:
    """Return o = from_start * q h + (pairwise * q k^T) v_new.

    Args:
        q, k: [NC, Hk, C, K]: normalised; q carries the scale.
        v_new: [NC, Hv, C, V].
        h: [NC, Hv, K, V]: state before each chunk.
        decay: Of the same chunks.

    Returns:
        [NC, Hv, C, V] in q's dtype.
    """
    num_chunks, key_heads, chunk, key_dim = q.shape
    value_dim = v_new.shape[-1]
    flat_q, flat_k = q.view(-1, chunk, key_dim), k.view(-1, chunk, key_dim)
    qkt = torch.bmm(flat_q, flat_k.transpose(1, 2)).view(num_chunks, key_heads, 1, chunk, chunk)
    grouped = decay.pairwise.view(num_chunks, key_heads, -1, chunk, chunk)
    scores = torch.empty_like(grouped, dtype=q.dtype)
    torch.mul(grouped, qkt, out=scores).tril_()
    group = grouped.shape[2]
    q_decayed = q.new_empty(num_chunks, key_heads, group, chunk, key_dim)
    from_start = decay.from_start.to(q.dtype).view(num_chunks, key_heads, group, chunk, 1)
    torch.mul(q.unsqueeze(2), from_start, out=q_decayed)
    o = torch.bmm(q_decayed.view(-1, chunk, key_dim), h.view(-1, key_dim, value_dim))
    o.baddbmm_(scores.view(-1, chunk, chunk), v_new.view(-1, chunk, value_dim))
    return o.view_as(v_new)
