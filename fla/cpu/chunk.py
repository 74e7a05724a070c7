# SPDX-License-Identifier: Apache-2.0
"""Gated DeltaNet prefill on CPU: the chunked form, over all chunks of all sequences at once.

Stage by stage as in vllm_ascend/ops/triton/fla/chunk.py (0.23.0), through the tables of the
contract.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ascend_gdn.attention.cpu import CPUChunkedPrefillMetadata
from ascend_gdn.attention.cpu_layouts import ChunkPart
from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.fla.chunk import ChunkGatedDeltaRule
from ascend_gdn.fla.cpu.chunk_delta_h import chunk_gated_delta_rule_fwd_h, keys_to_chunk_end
from ascend_gdn.fla.cpu.chunk_o import chunk_fwd_o
from ascend_gdn.fla.cpu.chunk_scaled_dot_kkt import chunk_scaled_dot_kkt_fwd
from ascend_gdn.fla.cpu.cumsum import ChunkDecay, chunk_local_cumsum
from ascend_gdn.fla.cpu.l2norm import l2norm_scale
from ascend_gdn.fla.cpu.solve_tril import solve_tril
from ascend_gdn.fla.cpu.wy_fast import recompute_w_u_fwd

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

    Shapes are those of ``ChunkGatedDeltaRule``; ``q_scale`` and ``k_scale`` [T, Hk, 1] float32
    multiply the queries and keys.
    """
    q_chunks, k_chunks = part.gather_heads(q, q_scale), part.gather_heads(k, k_scale)
    v_chunks, beta_chunks = part.gather_heads(v), part.gather_gate(beta)
    decay = chunk_local_cumsum(g, part)
    a_inverse = solve_tril(chunk_scaled_dot_kkt_fwd(k_chunks, beta_chunks, decay))
    w, u = recompute_w_u_fwd(k_chunks, v_chunks, beta_chunks, decay, a_inverse)
    return ChunkTerms(q_chunks, k_chunks, decay, keys_to_chunk_end(k_chunks, decay), w, u)


class CPUChunkGatedDeltaRule(ChunkGatedDeltaRule):
    """The rule in PyTorch; states are [N, Hv, K, V] float32.

    Args:
        scale: Of the queries; K ** -0.5 in Qwen3-Next.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(
        self,
        qk: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        initial_state: torch.Tensor | None,
        out: torch.Tensor,
        chunk: GDNChunkedPrefillMetadata,
    ) -> torch.Tensor:
        assert isinstance(chunk, CPUChunkedPrefillMetadata) and initial_state is not None
        (q, k), layout = qk, chunk.layout
        key_heads, (value_heads, value_dim) = k.shape[1], v.shape[1:]
        group = value_heads // key_heads
        q_scale, k_scale = l2norm_scale(q).mul_(self.scale), l2norm_scale(k)
        o = v.new_empty(layout.num_chunks, layout.chunk_size, value_heads, value_dim)
        final_state = torch.empty_like(initial_state)
        heads_at_once = max(1, min(key_heads, _PAIRS_AT_ONCE // (layout.num_seqs * group)))
        for first in range(0, key_heads, heads_at_once):
            keys = slice(first, first + heads_at_once)
            values = slice(first * group, (first + heads_at_once) * group)
            own_q, own_k, own_v = q[:, keys], k[:, keys], v[:, values]
            own_g, own_beta = g[:, values], beta[:, values]
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
        out.copy_(layout.by_token(o))
        return final_state
