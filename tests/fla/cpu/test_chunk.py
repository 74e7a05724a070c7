# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vllm import _custom_ops as ops

from ascend_gdn.fla.cpu.chunk import CPUChunkGatedDeltaRule
from upstream_calls import known

from .reference import (
    Inputs,
    chunk_gated_delta_rule,
    make_chunk,
    random_inputs,
    recurrent,
    relative_error,
)

LENGTHS = st.lists(
    st.one_of(st.integers(1, 200), st.sampled_from([1, 63, 64, 65, 128])), min_size=1, max_size=5
)


def run(inputs: Inputs, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return chunk_gated_delta_rule(inputs, lengths, inputs.q.shape[-1] ** -0.5)


@given(
    lengths=LENGTHS,
    key_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    dims=st.tuples(st.sampled_from([8, 16, 24]), st.sampled_from([8, 16, 24])),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    decay=st.sampled_from([0.0, 0.1, 2.0]),
    fresh=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_recurrence(
    lengths: list[int],
    key_heads: int,
    group: int,
    dims: tuple[int, int],
    dtype: torch.dtype,
    decay: float,
    fresh: bool,
    seed: int,
) -> None:
    inputs = random_inputs(
        lengths,
        key_heads=key_heads,
        group=group,
        key_dim=dims[0],
        value_dim=dims[1],
        dtype=dtype,
        decay=decay,
        seed=seed,
    )
    if fresh:
        inputs.initial_state.zero_()
    before = inputs.initial_state.clone()
    o, final_state = run(inputs, lengths)
    assert torch.equal(inputs.initial_state, before)
    assert o.dtype == dtype
    assert final_state.dtype == torch.float32
    expected_o, expected_state = recurrent(inputs, lengths, scale=dims[0] ** -0.5)
    bound = 2e-5 if dtype == torch.float32 else 3e-2
    # A single token may read next to nothing, a query being orthogonal to its key: hence the floor.
    assert relative_error(o, expected_o, floor=0.05) < bound
    assert relative_error(final_state, expected_state, floor=0.05) < bound


def test_short_keys_and_strided_inputs() -> None:
    lengths = [70, 5]
    inputs = random_inputs(lengths, key_heads=2, group=2, seed=3)
    inputs.k.mul_(0.3)
    o, state = run(inputs, lengths)
    # As a layer has them: cut out of the convolution's output.
    wide = torch.cat((inputs.q, inputs.k, inputs.v), dim=2)[0]
    qk, v = wide[:, :4].unflatten(1, (2, 2)).transpose(0, 1), wide[:, 4:]
    strided_o = torch.full_like(o[0], float("nan"))
    strided_state = CPUChunkGatedDeltaRule(16**-0.5)(
        qk, v, inputs.g[0], inputs.beta[0], inputs.initial_state, strided_o, make_chunk(lengths)
    )
    assert torch.equal(o[0], strided_o)
    assert torch.equal(state, strided_state)
    expected_o, expected_state = recurrent(inputs, lengths, scale=16**-0.5)
    assert relative_error(o, expected_o) < 2e-5
    assert relative_error(state, expected_state) < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_strong_decay_and_saturated_beta_stay_finite(dtype: torch.dtype, beta: float) -> None:
    lengths = [130, 64]
    inputs = random_inputs(lengths, group=2, dtype=dtype, decay=50.0)
    inputs.beta.fill_(beta)
    inputs.k[:, 64:] = inputs.k[:, :1]  # The same key again and again: the hardest system to solve.
    o, final_state = run(inputs, lengths)
    expected_o, expected_state = recurrent(inputs, lengths, scale=0.25)
    assert o.isfinite().all()
    assert final_state.isfinite().all()
    bound = 1e-3 if dtype == torch.float32 else 3e-2
    assert relative_error(o, expected_o) < bound
    assert relative_error(final_state, expected_state) < bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_key_repeated_without_decay(dtype: torch.dtype) -> None:
    inputs = random_inputs([128], dtype=dtype, decay=0.0)
    inputs.k[:] = inputs.k[:, :1]
    inputs.beta.fill_(1.0)
    o, _ = run(inputs, [128])
    expected_o, _ = recurrent(inputs, [128], scale=0.25)
    assert relative_error(o, expected_o) < (2e-5 if dtype == torch.float32 else 3e-2)


@given(
    lengths=st.lists(st.sampled_from([1, 5, 64, 65, 130]), min_size=2, max_size=4),
    where=st.sampled_from(["q", "k", "v", "g", "beta", "initial_state"]),
    pick=st.integers(0, 3),
)
def test_nan_stays_in_its_sequence(lengths: list[int], where: str, pick: int) -> None:
    inputs = random_inputs(lengths, group=2)
    clean_o, clean_state = run(inputs, lengths)
    bad = pick % len(lengths)
    first, end = sum(lengths[:bad]), sum(lengths[: bad + 1])
    if where == "initial_state":
        inputs.initial_state[bad] = float("nan")
    else:
        vars(inputs)[where][:, first:end] = float("nan")
    o, state = run(inputs, lengths)
    others = [seq for seq in range(len(lengths)) if seq != bad]
    torch.testing.assert_close(o[:, :first], clean_o[:, :first])
    torch.testing.assert_close(o[:, end:], clean_o[:, end:])
    torch.testing.assert_close(state[others], clean_state[others])


@pytest.mark.parametrize("lengths", [[256], [65, 130, 1, 64], [64] * 4])
def test_bf16_error_is_no_worse_than_the_stock_operators(lengths: list[int]) -> None:
    inputs = random_inputs(
        lengths, key_heads=2, group=2, key_dim=128, value_dim=128, dtype=torch.bfloat16
    )
    expected_o, expected_state = recurrent(inputs, lengths, scale=128**-0.5)
    o, state = run(inputs, lengths)
    stock_o, stock_state = known(
        ops.chunk_gated_delta_rule_cpu,
        query=inputs.q,
        key=inputs.k,
        value=inputs.v,
        g=inputs.g,
        beta=inputs.beta,
        initial_state=inputs.initial_state,
        output_final_state=True,
        cu_seqlens=make_chunk(lengths).cu_seqlens,
        head_first=False,
        use_qk_l2norm_in_kernel=True,
        initial_state_indices=torch.arange(len(lengths), dtype=torch.int32),
    )
    assert relative_error(o, expected_o) < 1.5 * relative_error(stock_o, expected_o)
    assert relative_error(state, expected_state) < 1.5 * relative_error(stock_state, expected_state)


def test_more_heads_than_one_pass_takes() -> None:
    """Wide batches and long prompts are worked off in parts; the parts must join without a seam."""
    lengths = [700] + [3] * 40
    inputs = random_inputs(lengths, key_heads=4, group=3, key_dim=8, value_dim=8)
    o, state = run(inputs, lengths)
    expected_o, expected_state = recurrent(inputs, lengths, scale=8**-0.5)
    assert relative_error(o, expected_o) < 2e-5
    assert relative_error(state, expected_state) < 2e-5
