# SPDX-License-Identifier: Apache-2.0
"""Prefill context parallelism: ranks that start from a wrong state, corrected, equal one rank."""

from __future__ import annotations

import pytest
import torch

from ascend_gdn.fla.cpu.chunk import chunk_terms
from ascend_gdn.fla.cpu.chunk_delta_h import chunk_gated_delta_rule_fwd_h
from ascend_gdn.fla.cpu.chunk_o import chunk_fwd_o
from ascend_gdn.fla.cpu.l2norm import l2norm_scale

from .context_parallel_reference import (
    chunk_fwd_o_update,
    chunk_gated_delta_rule_fwd_hupdate,
    final_state_update,
)
from .reference import chunk_gated_delta_rule, make_chunk, random_inputs

SCALE = 16**-0.5


def split(lengths: list[int], ranks: int) -> list[list[int]]:
    """Tokens of each sequence on each rank: contiguous, none empty."""
    return [
        [length // ranks + (1 if rank < length % ranks else 0) for length in lengths]
        for rank in range(ranks)
    ]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("start", ["zeros", "initial"])
@pytest.mark.parametrize("lengths", [[400], [130, 1000, 7], [384, 384]])
def test_split_over_ranks_equals_unsplit(lengths: list[int], ranks: int, start: str) -> None:
    inputs = random_inputs(lengths, key_heads=2, group=2, decay=0.05)
    expected_o, expected_state = chunk_gated_delta_rule(inputs, lengths, SCALE)
    starts = [sum(lengths[:seq]) for seq in range(len(lengths))]
    done = [0] * len(lengths)
    o = torch.full_like(expected_o, float("nan"))
    # Ranks may start from zeros, or all of them from the state before the prompt, as upstream does.
    assumed = torch.zeros_like(inputs.initial_state) if start == "zeros" else inputs.initial_state
    right = inputs.initial_state
    for own in split(lengths, ranks):
        tokens = torch.cat(
            [torch.arange(s + d, s + d + n) for s, d, n in zip(starts, done, own, strict=True)]
        )
        chunk = make_chunk(own)
        layout = chunk.layout
        whole = layout.parts(layout.num_chunks)[0]
        own_inputs = [x[0, tokens] for x in (inputs.q, inputs.k, inputs.v, inputs.g, inputs.beta)]
        scales = l2norm_scale(own_inputs[0]) * SCALE, l2norm_scale(own_inputs[1])
        terms = chunk_terms(*own_inputs, *scales, whole)
        state = layout.by_wave(assumed)
        h, v_new = chunk_gated_delta_rule_fwd_h(
            terms.k_end, terms.w, terms.u, terms.decay, state, whole
        )
        final_state = layout.by_sequence(state)
        h_update = chunk_gated_delta_rule_fwd_hupdate(
            terms.k_end, terms.w, terms.decay, layout, chunk.update_chunk_offsets_chunk64
        )
        assert h_update.shape[0] == layout.num_chunks + len(lengths)
        first_rows = h_update[chunk.update_chunk_offsets_chunk64[:-1].long()]
        assert torch.equal(first_rows, torch.eye(16).expand_as(first_rows))
        h, v_new = chunk_fwd_o_update(
            h, v_new, terms.w, h_update, right - assumed, layout, chunk.update_chunk_offsets_chunk64
        )
        rank_o = chunk_fwd_o(terms.q, terms.k, v_new, h, terms.decay)
        o[0, tokens] = layout.by_token(rank_o.transpose(1, 2).contiguous())
        right = final_state_update(
            final_state, h_update, right - assumed, chunk.final_chunk_indices_chunk64
        )
        done = [d + n for d, n in zip(done, own, strict=True)]
    torch.testing.assert_close(o, expected_o, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(right, expected_state, rtol=1e-4, atol=1e-5)
