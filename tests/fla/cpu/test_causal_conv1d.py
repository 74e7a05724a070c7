# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ascend_gdn.fla.cpu.causal_conv1d import causal_conv1d_fn, causal_conv1d_update

from .reference import make_chunk

DIM = 5


def plain_convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One sequence, token by token, float64: x [T, dim], state [dim, W - 1]."""
    width = weight.shape[1]
    window = [state[:, i].double() for i in range(width - 1)]
    rows = []
    for token in x.double():
        window.append(token)
        total = torch.zeros(x.shape[1], dtype=torch.float64)
        for tap in range(width):
            total = total + weight[:, tap].double() * window[-width + tap]
        if bias is not None:
            total = total + bias.double()
        rows.append(total * torch.sigmoid(total) if activation else total)
    return torch.stack(rows), torch.stack(window[len(window) - width + 1 :], dim=1)


@given(
    lengths=st.lists(
        st.one_of(st.sampled_from([1, 2, 3, 4, 5, 64]), st.integers(1, 600)),
        min_size=1,
        max_size=6,
    ),
    width=st.integers(2, 5),
    spare=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    activation=st.sampled_from([None, "silu", "swish"]),
    with_bias=st.booleans(),
    dim_first=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_sequences_and_their_states(
    lengths: list[int],
    width: int,
    spare: int,
    dtype: torch.dtype,
    activation: str | None,
    with_bias: bool,
    dim_first: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    num_seqs, blocks = len(lengths), len(lengths) + 3
    x = torch.randn(sum(lengths), DIM).to(dtype)
    weight, bias = torch.randn(DIM, width).to(dtype), torch.randn(DIM).to(dtype)
    if dim_first:
        states = torch.full((blocks, DIM, width - 1 + spare), float("nan"), dtype=dtype)
    else:
        states = torch.full((blocks, width - 1 + spare, DIM), float("nan"), dtype=dtype)
        states = states.transpose(1, 2)
    indices = torch.randperm(blocks)[:num_seqs].to(torch.int32)
    has_state = torch.rand(num_seqs) < 0.5
    for seq in range(num_seqs):
        if has_state[seq]:  # Blocks of the others keep their poison.
            states[indices[seq], :, : width - 1] = torch.randn(DIM, width - 1).to(dtype)
    before = states.clone()

    out = causal_conv1d_fn(
        x,
        weight,
        bias if with_bias else None,
        activation,
        states,
        indices,
        has_state,
        make_chunk(lengths).layout,
    )

    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    start, untouched = 0, torch.ones(blocks, dtype=torch.bool)
    for seq, length in enumerate(lengths):
        block = int(indices[seq])
        old = before[block, :, : width - 1]
        old = old if has_state[seq] else torch.zeros_like(old)
        expected, state = plain_convolution(
            x[start : start + length], weight, bias if with_bias else None, activation, old
        )
        found = out[start : start + length].double()
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        assert torch.equal(states[block, :, : width - 1].double(), state)
        assert states[block, :, width - 1 :].isnan().all()
        untouched[block] = False
        start += length
    assert torch.equal(states[untouched].isnan(), before[untouched].isnan())


def test_nan_does_not_cross_a_border() -> None:
    lengths = [70, 2, 300]
    x = torch.randn(sum(lengths), DIM)
    x[70:72] = float("nan")
    states = torch.zeros(3, DIM, 3)
    out = causal_conv1d_fn(
        x,
        torch.randn(DIM, 4),
        None,
        "silu",
        states,
        torch.arange(3),
        torch.ones(3, dtype=torch.bool),
        make_chunk(lengths).layout,
    )
    assert out[:70].isfinite().all()
    assert out[72:].isfinite().all()
    assert out[70:72].isnan().all()
    assert states[[0, 2]].isfinite().all()


@given(
    batch=st.integers(1, 6),
    width=st.integers(2, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    activation=st.sampled_from([None, "silu"]),
    with_bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_update_is_one_token_of_the_sequence(
    batch: int,
    width: int,
    dtype: torch.dtype,
    activation: str | None,
    with_bias: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(batch, DIM).to(dtype), torch.randn(DIM, width).to(dtype)
    bias = torch.randn(DIM).to(dtype) if with_bias else None
    states = torch.randn(batch + 2, width - 1, DIM).to(dtype).transpose(1, 2)
    indices = torch.randperm(batch + 2)[:batch].to(torch.int32)
    before = states.clone()
    out = causal_conv1d_update(x, states, weight, bias, activation, indices)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    untouched = torch.ones(batch + 2, dtype=torch.bool)
    for request, block in enumerate(indices.tolist()):
        expected, state = plain_convolution(
            x[request : request + 1], weight, bias, activation, before[block]
        )
        torch.testing.assert_close(
            out[request].double(), expected[0], rtol=tolerance, atol=tolerance
        )
        assert torch.equal(states[block].double(), state)
        untouched[block] = False
    assert torch.equal(states[untouched], before[untouched])


def test_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="gelu"):
        causal_conv1d_update(
            torch.zeros(1, DIM),
            torch.zeros(1, DIM, 3),
            torch.zeros(DIM, 4),
            None,
            "gelu",
            torch.zeros(1, dtype=torch.int32),
        )
