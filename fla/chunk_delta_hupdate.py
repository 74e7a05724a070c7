# SPDX-License-Identifier: Apache-2.0
"""Prefill context parallelism: how the state before a rank's tokens reaches each of its chunks.

Run by tests only, as ``chunk_o_update.py`` is, which see.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from ascend_gdn.fla.chunk_layout import ChunkLayout
from ascend_gdn.fla.cumsum import ChunkDecay


def chunk_gated_delta_rule_fwd_hupdate(
    k_end: torch.Tensor,
    w: torch.Tensor,
    decay: ChunkDecay,
    layout: ChunkLayout,
    update_chunk_offsets: torch.Tensor,
) -> torch.Tensor:
    """Return the prefix products of the chunks' transitions, decay I - k_end^T w.

    Args:
        k_end: [NC, Hv, C, K], of :func:`~ascend_gdn.fla.chunk_delta_h.keys_to_chunk_end`.
        w: [NC, Hv, C, K].
        decay: Of the same chunks.
        layout: Gives the waves.
        update_chunk_offsets: [N + 1]: ``update_chunk_offsets_chunk64`` of the contract.

    Returns:
        h_update [NC + N, Hv, K, K] float32. A sequence's rows start at its
        ``update_chunk_offsets``: the identity, then one row a chunk; its last row
        (``final_chunk_indices``) spans all its chunks.
    """
    num_chunks, value_heads, chunk, key_dim = w.shape
    flat_k, flat_w = k_end.view(-1, chunk, key_dim), w.view(-1, chunk, key_dim)
    transition = torch.bmm(flat_k.transpose(1, 2).float(), flat_w.float()).neg_()
    transition.diagonal(dim1=1, dim2=2).add_(decay.from_start[..., -1].reshape(-1, 1))
    h_update = w.new_empty(
        num_chunks + layout.num_seqs, value_heads, key_dim, key_dim, dtype=torch.float32
    )
    h_update[update_chunk_offsets[:-1].long()] = torch.eye(key_dim, dtype=torch.float32)
    rows = layout.update_rows(update_chunk_offsets)
    transition = transition.view(num_chunks, value_heads, key_dim, key_dim)
    for first, end in pairwise(layout.wave_starts):
        before = rows[first:end]
        h_update[before + 1] = torch.matmul(transition[first:end], h_update[before])
    return h_update
