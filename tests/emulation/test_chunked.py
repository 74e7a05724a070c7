# SPDX-License-Identifier: Apache-2.0
"""The pieces of the chunked prefill, put together, against the rule one token after the other."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from emulated_npu import ops_chunk, triton_chunk
from emulated_npu.checks import NARROW, OperatorError

from .reference import delta_rule

KEY_HEADS, HEADS, DIM = 1, 2, 128
LENGTHS = (1, 64, 65, 130)
SCALE = DIM**-0.5


def table(bounds: list[int], size: int) -> torch.Tensor:
    """A row ``(sequence, chunk of it)`` for each chunk; int32 [chunks, 2]."""
    rows = [
        (i, chunk)
        for i, (start, end) in enumerate(pairwise(bounds))
        for chunk in range(-((start - end) // size))
    ]
    return torch.tensor(rows, dtype=torch.int32)


def bounds_of(*lengths: int) -> list[int]:
    return [0, *torch.tensor(lengths).cumsum(0).tolist()]


def random_inputs(tokens: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)

    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(shape), dim=-1).to(dtype)

    return {
        "q": unit(1, tokens, KEY_HEADS, DIM),
        "k": unit(1, tokens, KEY_HEADS, DIM),
        "v": torch.randn(1, tokens, HEADS, DIM).to(dtype),
        "g": -torch.rand(1, tokens, HEADS),
        "beta": torch.rand(1, tokens, HEADS).to(dtype),
    }


def chunked(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
    bounds: list[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """As vllm-ascend's chunk.py puts them together."""
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
    chunks = table(bounds, 64)
    block = 1 << (2**18 // (HEADS * 64) - 1).bit_length()
    g = triton_chunk.chunk_local_cumsum(
        g, 64, cu_seqlens=cu_seqlens, block_indices=table(bounds, block)
    )
    a = triton_chunk.chunk_scaled_dot_kkt_fwd(
        k=k, beta=beta, g_cumsum=g, cu_seqlens=cu_seqlens, chunk_indices=chunks
    )
    a = triton_chunk.solve_tril(a, cu_seqlens, table(bounds, 1216), chunks, k.dtype)
    w, u = triton_chunk.recompute_w_u_fwd(k, v, beta, g, a, cu_seqlens, chunks)

    def by_head(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.transpose(1, 2).contiguous()

    host = {"cu_seqlens": tuple(bounds), "chunk_indices": tuple(chunks.flatten().tolist())}
    h, new_values, final = ops_chunk.chunk_gated_delta_rule_fwd_h(
        by_head(k), by_head(w), by_head(u), by_head(g),
        initial_state=state, output_final_state=True, **host,
    )  # fmt: skip
    output = ops_chunk.chunk_fwd_o(
        by_head(q), by_head(k), new_values, h, SCALE, g=by_head(g), **host
    )
    return by_head(output), final


@pytest.mark.parametrize("lengths", [LENGTHS, (1,), (64,), (1300, 3)])
def test_equals_the_sequential_rule(lengths: tuple[int, ...]):
    bounds = bounds_of(*lengths)
    inputs = random_inputs(bounds[-1], NARROW[0])
    state = torch.randn(len(lengths), HEADS, DIM, DIM)
    output, final = chunked(**inputs, state=state, bounds=bounds)
    q, k = (inputs[name][0].repeat_interleave(HEADS // KEY_HEADS, 1) for name in ("q", "k"))
    v, g, beta = (inputs[name][0] for name in ("v", "g", "beta"))
    for i, (start, end) in enumerate(pairwise(bounds)):
        part = slice(start, end)
        expected, expected_state = delta_rule(
            q[part], k[part], v[part], g[part], beta[part], state[i], SCALE
        )
        # bfloat16 has 8 bits.
        torch.testing.assert_close(output[0, part].double(), expected, rtol=0.02, atol=0.02)
        torch.testing.assert_close(final[i].double(), expected_state, rtol=0.02, atol=0.03)


class TestRefuses:
    bounds = bounds_of(*LENGTHS)
    tokens = bounds[-1]

    def cumsum(self, blocks: torch.Tensor, bounds: list[int] | None = None) -> torch.Tensor:
        return triton_chunk.chunk_local_cumsum(
            torch.zeros(1, self.tokens, HEADS),
            64,
            cu_seqlens=torch.tensor(bounds or self.bounds, dtype=torch.int32),
            block_indices=blocks,
        )

    def test_a_table_that_leaves_tokens_out(self):
        with pytest.raises(OperatorError, match="not every token"):
            self.cumsum(table(self.bounds, 2048)[:-1])

    def test_a_table_of_chunks_without_tokens(self):
        with pytest.raises(OperatorError, match="without tokens"):
            self.cumsum(table(self.bounds, 64))

    def test_a_table_that_numbers_sequences_in_another_way(self):
        """What upstream's builder makes of an empty sequence in the middle: it leaves it out."""
        whole = [0, 128, 128, self.tokens]
        with pytest.raises(OperatorError, match="without tokens"):
            self.cumsum(table([0, 128, self.tokens], 2048), whole)
        self.cumsum(table(whole, 2048), whole)

    def test_a_sequence_past_the_end(self):
        with pytest.raises(OperatorError, match="against cu_seqlens"):
            self.cumsum(torch.tensor([[len(LENGTHS), 0]]))

    def fwd_h(self, **changed: object) -> object:
        by_head = (1, HEADS, self.tokens)
        arguments = {
            "k": torch.zeros(1, KEY_HEADS, self.tokens, DIM, dtype=NARROW[0]),
            "w": torch.zeros(*by_head, DIM, dtype=NARROW[0]),
            "u": torch.zeros(*by_head, DIM, dtype=NARROW[0]),
            "g": torch.zeros(by_head),
            "initial_state": torch.zeros(len(LENGTHS), HEADS, DIM, DIM),
            "cu_seqlens": tuple(self.bounds),
            "chunk_indices": tuple(table(self.bounds, 64).flatten().tolist()),
        }
        return ops_chunk.chunk_gated_delta_rule_fwd_h(**(arguments | changed))

    def test_fwd_h(self):
        self.fwd_h()
        empty = (0, *self.bounds)
        later = tuple((table(self.bounds, 64) + torch.tensor([1, 0])).flatten().tolist())
        for changed, message in (
            ({"g": None}, "g is missing"),
            ({"gk": torch.zeros(1)}, "reserved"),
            ({"use_exp2": True}, "reserved"),
            ({"u": torch.zeros(1, HEADS, self.tokens, 64, dtype=NARROW[0])}, "not of 128s"),
            ({"k": torch.zeros(1, KEY_HEADS, self.tokens, DIM, dtype=torch.float64)}, "k is"),
            ({"initial_state": torch.zeros(1, HEADS, DIM, DIM)}, "initial_state is"),
            ({"cu_seqlens": tuple(self.bounds[:-1])}, "do not span"),
            ({"cu_seqlens": empty, "chunk_indices": later}, "without tokens in cu_seqlens"),
            ({"chunk_indices": ()}, "not every token"),
        ):
            with pytest.raises(OperatorError, match=message):
                self.fwd_h(**changed)
