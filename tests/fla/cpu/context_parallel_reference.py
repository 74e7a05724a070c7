# SPDX-License-Identifier: Apache-2.0
"""Prefill context parallelism in PyTorch: how the state before a rank's tokens reaches each of its
chunks, its output and its final state, by the contract's ``update_`` and ``final_`` tables."""

from __future__ import annotations

from itertools import pairwise

import torch

from ascend_gdn.attention.cpu_layouts import ChunkLayout
from ascend_gdn.fla.cpu.cumsum import ChunkDecay


def update_rows(
    layout: ChunkLayout, update_chunk_offsets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """[NC] each, int64: the sequence of each of the layout's rows, and where its update is."""
    order = torch.arange(layout.num_seqs) if layout.seq_order is None else layout.seq_order
    waves = [order[: end - first] for first, end in pairwise(layout.wave_starts)]
    rows = [update_chunk_offsets[seqs].long() + wave for wave, seqs in enumerate(waves)]
    return torch.cat(waves), torch.cat(rows)


def chunk_gated_delta_rule_fwd_hupdate(
    k_end: torch.Tensor,
    w: torch.Tensor,
    decay: ChunkDecay,
    layout: ChunkLayout,
    update_chunk_offsets: torch.Tensor,
) -> torch.Tensor:
    """Return the prefix products of the chunks' transitions, decay I - k_end^T w.

    Args:
        k_end: [NC, Hv, C, K], of :func:`~ascend_gdn.fla.cpu.chunk_delta_h.keys_to_chunk_end`.
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
    _, rows = update_rows(layout, update_chunk_offsets)
    transition = transition.view(num_chunks, value_heads, key_dim, key_dim)
    for first, end in pairwise(layout.wave_starts):
        before = rows[first:end]
        h_update[before + 1] = torch.matmul(transition[first:end], h_update[before])
    return h_update


def chunk_fwd_o_update(
    h: torch.Tensor,
    v_new: torch.Tensor,
    w: torch.Tensor,
    h_update: torch.Tensor,
    updated_h_state: torch.Tensor,
    layout: ChunkLayout,
    update_chunk_offsets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what h and v_new would be had the rank started from another state.

    Args:
        h: [NC, Hv, K, V]: states before each chunk, from the state the rank did start from.
        v_new: [NC, Hv, C, V], likewise.
        w: [NC, Hv, C, K].
        h_update: [NC + N, Hv, K, K] float32, of
            :func:`chunk_gated_delta_rule_fwd_hupdate`.
        updated_h_state: [N, Hv, K, V] float32: the right state before the rank's tokens, less the
            one it started from.
        layout: Gives the sequence of each row.
        update_chunk_offsets: [N + 1]: ``update_chunk_offsets_chunk64`` of the contract.

    Returns:
        h and v_new, corrected, new tensors of the same shapes and dtypes.
    """
    seqs, rows = update_rows(layout, update_chunk_offsets)
    correction = torch.matmul(h_update[rows], updated_h_state[seqs])
    v_correction = torch.matmul(w.float(), correction)
    return (h + correction).to(h.dtype), (v_new - v_correction).to(v_new.dtype)


def final_state_update(
    final_state: torch.Tensor,
    h_update: torch.Tensor,
    updated_h_state: torch.Tensor,
    final_chunk_indices: torch.Tensor,
) -> torch.Tensor:
    """Return the rank's ``final_state`` [N, Hv, K, V] float32 corrected in the same way.

    ``final_chunk_indices`` [N] is ``final_chunk_indices_chunk64`` of the contract; the others are
    those of :func:`chunk_fwd_o_update`.
    """
    return final_state + torch.matmul(h_update[final_chunk_indices.long()], updated_h_state)
