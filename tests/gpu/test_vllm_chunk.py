# SPDX-License-Identifier: Apache-2.0
"""vLLM's own chunked rule, as we launch it: bit by bit what vLLM's wrappers do."""

from __future__ import annotations

from .device import CUDA, require_cuda

require_cuda()

import pytest
import torch
from torch.nn.functional import normalize
from vllm.model_executor.layers.fla.ops import chunk_gated_delta_rule

from ascend_gdn.fla.cuda.vllm.chunk import VllmChunkGatedDeltaRule

from ..fla.cuda.prefills import NAN, tables


@pytest.mark.parametrize("has_state", [True, False])
@pytest.mark.parametrize("lengths", [[100, 70, 1, 640], [5000], [64]])
def test_equals_vllm_bit_by_bit(lengths, has_state):
    random, tokens = torch.Generator(CUDA).manual_seed(0), sum(lengths)
    q, k, v = (
        torch.randn(tokens, heads, 128, generator=random, device=CUDA) for heads in (2, 2, 4)
    )
    q, k, v = (part.bfloat16() for part in (normalize(q, dim=-1), normalize(k, dim=-1), v))
    g = -torch.rand(tokens, 4, generator=random, device=CUDA)
    beta = torch.rand(tokens, 4, generator=random, device=CUDA)
    state = torch.randn(len(lengths), 4, 128, 128, generator=random, device=CUDA)
    out, chunk = torch.full_like(v, NAN), tables(lengths, CUDA)
    rule = VllmChunkGatedDeltaRule(2, 4, 128, 128)
    final = rule((q, k), v, g, beta, state if has_state else None, out, chunk)
    expected, expected_final = chunk_gated_delta_rule(
        *(part[None] for part in (q, k, v, g, beta)),
        initial_state=state if has_state else torch.zeros_like(state),
        output_final_state=True,
        cu_seqlens=chunk.cu_seqlens,
    )
    torch.testing.assert_close(out, expected[0], atol=0, rtol=0)
    torch.testing.assert_close(final, expected_final, atol=0, rtol=0)
