# SPDX-License-Identifier: Apache-2.0
"""Gated DeltaNet prefill on CPU: the chunked form, over all chunks of all sequences at once.

Stage by stage as in vllm_ascend/ops/triton/fla/chunk.py (0.23.0), through the tables of the
contract.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ascend_gdn.attention.metadata import GDNPrefillFallbackMeta, require_prefill_meta
from ascend_gdn.fla.chunk_delta_h import chunk_gated_delta_rule_fwd_h, keys_to_chunk_end
from ascend_gdn.fla.chunk_layout import ChunkPart
from ascend_gdn.fla.chunk_o import chunk_fwd_o
from ascend_gdn.fla.chunk_scaled_dot_kkt import chunk_scaled_dot_kkt_fwd
from ascend_gdn.fla.cumsum import ChunkDecay, chunk_local_cumsum
from ascend_gdn.fla.l2norm import l2norm_scale
from ascend_gdn.fla.solve_tril import solve_tril
from ascend_gdn.fla.wy_fast import recompute_w_u_fwd

_PAIRS_AT_ONCE = 64
"""Pairs of a chunk and a value head worked off together: few enough that what they need, ~100 KB
each at head dimension 128, stays in cache and is not fresh memory every time; enough to amortise
the calls."""


@dataclass(frozen=True, eq=False)
class ChunkTerms:
    """What a chunk contributes whatever the state before it. Rows in the layout's order."""

    q: torch.Tensor
    """[NC, Hk, C, K]: normalised and scaled."""
    k: torch.Tensor
    """[NC, Hk, C, K]: normalised."""
    decay: ChunkDecay
    k_end: torch.Tensor
    """[NC, Hv, C, K]."""
    w: torch.Tensor
    """[NC, Hv, C, K]."""
    u: torch.Tensor
    """[NC, Hv, C, V]."""


def chunk_terms(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    q_scale: torch.Tensor,
    k_scale: torch.Tensor,
    part: ChunkPart,
) -> ChunkTerms:
    """Run the stages that see one chunk at a time, for the chunks of ``part``.

    Shapes are those of :func:`chunk_gated_delta_rule` without the leading 1; ``q_scale`` and
    ``k_scale`` [T, Hk, 1] float32 multiply the queries and keys.
    """
    q_chunks, k_chunks = part.gather_heads(q, q_scale), part.gather_heads(k, k_scale)
    v_chunks, beta_chunks = part.gather_heads(v), part.gather_gate(beta)
    decay = chunk_local_cumsum(g, part)
    a_inverse = solve_tril(chunk_scaled_dot_kkt_fwd(k_chunks, beta_chunks, decay))
    w, u = recompute_w_u_fwd(k_chunks, v_chunks, beta_chunks, decay, a_inverse)
    return ChunkTerms(q_chunks, k_chunks, decay, keys_to_chunk_end(k_chunks, decay), w, u)


def query_key_scales(
    q: torch.Tensor, k: torch.Tensor, scale: float, use_qk_l2norm_in_kernel: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factors [T, Hk, 1] float32 of ``q`` and ``k`` [T, Hk, K]."""
    if use_qk_l2norm_in_kernel:
        return l2norm_scale(q).mul_(scale), l2norm_scale(k)
    ones = torch.ones(*k.shape[:2], 1)
    return ones * scale, ones


def chunk_gated_delta_rule(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    scale: float,
    initial_state: torch.Tensor,
    meta: GDNPrefillFallbackMeta,
    layer: str,
    use_qk_l2norm_in_kernel: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply the gated delta rule to N sequences of together T tokens.

    Args:
        q, k: [1, T, Hk, K] bfloat16 or float32, CPU; any strides with a dense last dimension.
        v: [1, T, Hv, V], same dtype; value head h reads key head h // (Hv / Hk).
        g: [1, T, Hv] float32: log decay, at most 0.
        beta: [1, T, Hv]: in 0..1.
        scale: Of the queries; K ** -0.5 in Qwen3-Next.
        initial_state: [N, Hv, K, V] float32; not written.
        meta: The step's prefill metadata. Required: nothing here can make a table.
        layer: Name of the calling layer, for errors.
        use_qk_l2norm_in_kernel: Normalise q and k over the head dimension first.

    Returns:
        o [1, T, Hv, V] in q's dtype, and the final state [N, Hv, K, V] float32.

    Raises:
        GDNContractError: ``meta`` is missing, of an earlier step, or of another batch.
    """
    meta = require_prefill_meta(
        meta, layer=layer, num_tokens=q.shape[1], num_seqs=initial_state.shape[0]
    )
    layout = meta.chunk.layout
    key_heads, (value_heads, value_dim) = k.shape[2], v.shape[2:]
    group = value_heads // key_heads
    q_scale, k_scale = query_key_scales(q[0], k[0], scale, use_qk_l2norm_in_kernel)
    o = v.new_empty(layout.num_chunks, layout.chunk_size, value_heads, value_dim)
    final_state = torch.empty_like(initial_state)
    heads_at_once = max(1, min(key_heads, _PAIRS_AT_ONCE // (layout.num_seqs * group)))
    for first in range(0, key_heads, heads_at_once):
        keys = slice(first, first + heads_at_once)
        values = slice(first * group, (first + heads_at_once) * group)
        own_q, own_k, own_v = q[0, :, keys], k[0, :, keys], v[0, :, values]
        own_g, own_beta = g[0, :, values], beta[0, :, values]
        state = layout.by_wave(initial_state[:, values])
        for part in layout.parts(max(1, _PAIRS_AT_ONCE // (heads_at_once * group))):
            terms = chunk_terms(
                own_q, own_k, own_v, own_g, own_beta, q_scale[:, keys], k_scale[:, keys], part
            )
            h, v_new = chunk_gated_delta_rule_fwd_h(
                terms.k_end, terms.w, terms.u, terms.decay, state, part
            )
            own_o = chunk_fwd_o(terms.q, terms.k, v_new, h, terms.decay)
            o[part.rows, :, values].copy_(own_o.transpose(1, 2))
        final_state[:, values] = layout.by_sequence(state)
    return layout.by_token(o).unsqueeze(0), final_state
