# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from ascend_gdn.fla.cpu.fused_recurrent import fused_recurrent_gated_delta_rule

from .reference import random_inputs, recurrent, relative_error


@given(
    batch=st.integers(1, 6),
    key_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    state_dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_one_token_of_the_recurrence(
    batch: int,
    key_heads: int,
    group: int,
    dtype: torch.dtype,
    state_dtype: torch.dtype,
    seed: int,
) -> None:
    inputs = random_inputs(
        [1] * batch, key_heads=key_heads, group=group, value_dim=24, dtype=dtype, seed=seed
    )
    inputs.initial_state = inputs.initial_state.to(state_dtype)
    state = torch.full((batch + 3, *inputs.initial_state.shape[1:]), float("nan"))
    state = state.to(state_dtype)
    indices = torch.randperm(batch + 3)[:batch].to(torch.int32)
    state[indices] = inputs.initial_state
    o = fused_recurrent_gated_delta_rule(
        inputs.q,
        inputs.k,
        inputs.v,
        inputs.g,
        inputs.beta,
        0.25,
        state,
        indices,
    )
    expected_o, expected_state = recurrent(inputs, [1] * batch, scale=0.25)
    assert o.dtype == dtype
    assert relative_error(o, expected_o, floor=0.05) < (1e-5 if dtype == torch.float32 else 1e-2)
    bound = 1e-5 if state_dtype == torch.float32 else 1e-2
    assert relative_error(state[indices], expected_state) < bound
    untouched = torch.ones(batch + 3, dtype=torch.bool)
    untouched[indices] = False
    assert state[untouched].isnan().all()
