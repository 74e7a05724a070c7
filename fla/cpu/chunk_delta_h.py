# SPDX-License-Identifier: Apache-2.0
"""The recurrence across chunks, batched over sequences."""

from __future__ import annotations

import torch

from ascend_gdn.attention.cpu_layouts import ChunkPart
from ascend_gdn.fla.cpu.cumsum import ChunkDecay


def keys_to_chunk_end(k: torch.Tensor, decay: ChunkDecay) -> torch.Tensor:
    """Return [NC, Hv, C, K] in k's dtype: ``k`` [NC, Hk, C, K] decayed to its chunk's end."""
    num_chunks, key_heads, chunk, key_dim = k.shape
    to_end = decay.to_end.to(k.dtype).view(num_chunks, key_heads, -1, chunk, 1)
    out = k.new_empty(num_chunks, key_heads, to_end.shape[2], chunk, key_dim)
    torch.mul(k.unsqueeze(2), to_end, out=out)
    return out.view(num_chunks, -1, chunk, key_dim)


def chunk_gated_delta_rule_fwd_h(
    k_end: torch.Tensor,
    w: torch.Tensor,
    u: torch.Tensor,
    decay: ChunkDecay,
    state: torch.Tensor,
    part: ChunkPart,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Carry the state from chunk to chunk: v_new = u - w h, then h' = decay h + k_end^T v_new.

    Args:
        k_end: [NC, Hv, C, K], of :func:`keys_to_chunk_end`.
        w: [NC, Hv, C, K].
        u: [NC, Hv, C, V]. Overwritten: v_new takes its place.
        decay: Of the same chunks.
        state: [N, Hv, K, V] float32 contiguous, sequences in the layout's ``seq_order``: the state
            before these chunks; updated in place to the state after them.
        part: Gives the waves.

    Returns:
        h [NC, Hv, K, V] in k_end's dtype, the state before each chunk, and v_new [NC, Hv, C, V].
    """
    num_chunks, heads, chunk, key_dim = w.shape
    value_dim = u.shape[-1]
    h = k_end.new_empty(num_chunks, heads, key_dim, value_dim)
    pairs = [size * heads for size in part.wave_sizes]
    states = state.view(-1, key_dim, value_dim)
    waves = zip(
        pairs,
        k_end.view(-1, chunk, key_dim).transpose(1, 2).split(pairs),
        w.view(-1, chunk, key_dim).split(pairs),
        u.view(-1, chunk, value_dim).split(pairs),
        h.view(-1, key_dim, value_dim).split(pairs),
        decay.from_start[..., -1].reshape(-1, 1, 1).split(pairs),
        strict=True,
    )
    for count, k_wave, w_wave, v_wave, h_wave, decay_wave in waves:
        current = states[:count]
        h_wave.copy_(current)
        v_wave.baddbmm_(w_wave, h_wave, alpha=-1)
        torch.addcmul(torch.bmm(k_wave, v_wave), current, decay_wave, out=current)
    return h, u
