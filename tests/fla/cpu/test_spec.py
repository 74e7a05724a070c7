# SPDX-License-Identifier: Apache-2.0
"""Speculative steps against plain sequences: what was drafted but not kept must leave no trace."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from ascend_gdn.attention.cpu import SpecLayout
from ascend_gdn.fla.cpu.causal_conv1d import causal_conv1d_update_spec
from ascend_gdn.fla.cpu.fused_sigmoid_gating import spec_decode, torch_decode_kernel
from ascend_gdn.fla.cpu.gating import fused_gdn_gating

from .reference import Inputs, recurrent
from .test_causal_conv1d import plain_convolution

DIM = 5
NUM_SPEC = 3

# A step of a request: the tokens that it verifies, and how many of them are kept. The lengths are
# drawn without a look at what the step before kept: a query may be shorter than that.
step = st.integers(1, NUM_SPEC + 1).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))
steps_of_requests = st.integers(1, 4).flatmap(
    lambda steps: st.lists(st.lists(step, min_size=steps, max_size=steps), min_size=1, max_size=5)
)


def layout_of(lengths: list[int]) -> SpecLayout:
    starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return SpecLayout(starts)


def test_places_of_tokens():
    layout = layout_of([2, 4, 1])
    assert layout.tokens.tolist() == [[0, 1, 1, 1], [2, 3, 4, 5], [6, 6, 6, 6]]
    assert layout.used.sum(1).tolist() == [2, 4, 1]
    tokens = torch.arange(7)
    assert layout.by_token(layout.by_request(tokens)).tolist() == tokens.tolist()


@given(
    requests=steps_of_requests,
    width=st.integers(2, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_convolution_goes_on_from_the_kept_tokens(requests, width, dtype, seed):
    torch.manual_seed(seed)
    blocks = len(requests) + 2
    own = torch.randperm(blocks)[: len(requests)].to(torch.int32)
    states = torch.full((blocks, width - 1 + NUM_SPEC, DIM), float("nan"), dtype=dtype)
    states = states.transpose(1, 2)
    histories = [torch.randn(width - 1, DIM).to(dtype) for _ in requests]
    for block, history in zip(own.tolist(), histories, strict=True):
        states[block, :, : width - 1] = history.t()
    weight, bias = torch.randn(DIM, width).to(dtype), torch.randn(DIM).to(dtype)
    accepted = torch.ones(len(requests), dtype=torch.int32)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for turn in zip(*requests, strict=True):
        lengths = [length for length, _ in turn]
        x = torch.randn(sum(lengths), DIM).to(dtype)
        out = causal_conv1d_update_spec(
            x, states, weight, bias, "silu", own, accepted, layout_of(lengths)
        )
        for request, (length, kept) in enumerate(turn):
            tokens, x = x[:length], x[length:]
            found, out = out[:length], out[length:]
            old = histories[request][-(width - 1) :].t()
            expected, _ = plain_convolution(tokens, weight, bias, "silu", old)
            torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
            histories[request] = torch.cat([histories[request], tokens[:kept]])
        accepted = torch.tensor([kept for _, kept in turn], dtype=torch.int32)
    untouched = torch.ones(blocks, dtype=torch.bool)
    untouched[own] = False
    assert states[untouched].isnan().all()


@given(requests=steps_of_requests, seed=st.integers(0, 1000))
def test_state_goes_on_from_the_kept_tokens(requests, seed):
    torch.manual_seed(seed)
    key_heads, value_heads, dim = 1, 2, 8
    count, blocks = len(requests), len(requests) * (NUM_SPEC + 1) + 2
    columns = torch.randperm(blocks)[: count * (NUM_SPEC + 1)].view(count, -1).to(torch.int32)
    states = torch.full((blocks, value_heads, dim, dim), float("nan"))
    states[columns[:, 0]] = torch.randn(count, value_heads, dim, dim) * 0.3
    true_states = states[columns[:, 0]].double()
    A_log, dt_bias = torch.rand(value_heads), torch.rand(value_heads)
    accepted = torch.ones(count, dtype=torch.int32)
    for turn in zip(*requests, strict=True):
        lengths = [length for length, _ in turn]
        tokens = sum(lengths)
        q, k = torch.randn(2, 1, tokens, key_heads, dim)
        v = torch.randn(1, tokens, value_heads, dim)
        a, b = torch.randn(2, tokens, value_heads)
        found = spec_decode(
            torch_decode_kernel, A_log, dt_bias, q, k, v, a, b, states, columns, accepted,
            layout_of(lengths),
        )  # fmt: skip
        g, beta = fused_gdn_gating(A_log, a, b, dt_bias)
        # Each request's tokens, then those that it keeps, as sequences of their own.
        everything = Inputs(q, k, v, g, beta, true_states)
        expected, _ = recurrent(everything, lengths, scale=dim**-0.5)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
        starts = [sum(lengths[:request]) for request in range(count)]
        kept = [kept for _, kept in turn]
        rows = [start + i for start, n in zip(starts, kept, strict=True) for i in range(n)]
        own = (x[:, rows] for x in (q, k, v, g, beta))
        _, true_states = recurrent(Inputs(*own, true_states), kept, scale=dim**-0.5)
        accepted = torch.tensor(kept, dtype=torch.int32)
        saved = states[columns.gather(1, (accepted - 1).long().view(-1, 1))[:, 0]]
        torch.testing.assert_close(saved.double(), true_states, rtol=1e-4, atol=1e-5)
    untouched = torch.ones(blocks, dtype=torch.bool)
    untouched[columns.flatten()] = False
    assert states[untouched].isnan().all()
