# SPDX-License-Identifier: Apache-2.0
"""The emulated operators of ``fla_npu``, and CANN's fused prefill: what they do, and refuse."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from emulated_npu import fla_npu_chunk, fla_npu_conv, fla_npu_recurrent
from emulated_npu.checks import NARROW, OperatorError
from emulated_npu.ops_recurrent import npu_recurrent_gated_delta_rule

from .reference import convolution, delta_rule
from .test_chunked import DIM, HEADS, KEY_HEADS, SCALE, bounds_of, random_inputs
from .test_ops_conv import BOUNDS, INDICES, WIDTH
from .test_ops_conv import arguments as custom_arguments

DTYPE = NARROW[0]


def conv_arguments(**changed: object) -> dict[str, object]:
    """The same as of the other stack's operator."""
    given = custom_arguments()
    return {
        "x": given["x"],
        "weight": given["weight"],
        "bias": None,
        "conv_states": given["conv_state"],
        "query_start_loc": given["query_start_loc_opt"],
        "cache_indices": given["cache_indices_opt"],
        "has_initial_state": given["initial_state_mode_opt"],
    } | changed


def update_arguments(**changed: object) -> dict[str, object]:
    given = conv_arguments()
    return {
        "x": given["x"],
        "conv_state": given["conv_states"],
        "weight": given["weight"],
        "activation": "silu",
        "conv_state_indices": given["cache_indices"],
        "num_accepted_tokens": torch.tensor([1, 1, 3, 2], dtype=torch.int32),
        "query_start_loc": given["query_start_loc"],
        "max_query_len": -1,
        "out": torch.full_like(given["x"], float("nan")),
    } | changed


@pytest.mark.parametrize("update", [False, True])
def test_the_convolution_equals_the_sequential_one(update: bool):
    given = update_arguments() if update else conv_arguments()
    states = given["conv_state" if update else "conv_states"]
    before = states.clone()
    operator = fla_npu_conv.causal_conv1d_update if update else fla_npu_conv.causal_conv1d_fn
    out = operator(**given)
    assert not update or out is given["out"]
    for i, block in enumerate(INDICES):
        start, end = BOUNDS[i : i + 2]
        if block == 0 or start == end:  # the null block's row is left out
            assert torch.equal(states[block], before[block])
            assert out[start:end].isnan().all()
            continue
        first = int(given["num_accepted_tokens"][i]) - 1 if update else 0
        past = before[block, first : first + WIDTH - 1]
        if not update and not given["has_initial_state"][i]:
            past = torch.zeros_like(past)
        expected = convolution(given["x"][start:end], given["weight"], past)
        torch.testing.assert_close(out[start:end].double(), expected, rtol=0.01, atol=0.01)
        assert not torch.equal(states[block], before[block])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"query_start_loc": torch.tensor(BOUNDS)}, "query_start_loc is torch.int64"),
        ({"cache_indices": torch.tensor([INDICES], dtype=torch.int32)}, "cache_indices is"),
        ({"cache_indices": torch.tensor([3, 0, 5, 99], dtype=torch.int32)}, "leave the 8 blocks"),
        ({"has_initial_state": torch.ones(4, dtype=torch.int64)}, "has_initial_state is"),
        ({"weight": torch.zeros(5, 32, dtype=DTYPE)}, "width 5"),
        ({"activation": "gelu"}, "activation gelu"),
    ],
)
def test_the_convolution_refuses(changed: dict[str, object], message: str):
    with pytest.raises(OperatorError, match=message):
        fla_npu_conv.causal_conv1d_fn(**conv_arguments(**changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_accepted_tokens": torch.ones(4, dtype=torch.int64)}, "num_accepted_tokens is"),
        ({"max_query_len": 4}, "5 tokens, more than 4"),
        ({"max_query_len": 5}, "states of 6 inputs, fewer than the 7"),
        ({"out": torch.zeros(7, 32, dtype=DTYPE)}, "out is"),
    ],
)
def test_an_update_refuses(changed: dict[str, object], message: str):
    with pytest.raises(OperatorError, match=message):
        fla_npu_conv.causal_conv1d_update(**update_arguments(**changed))


def recurrent_arguments(lengths: list[int]) -> dict[str, object]:
    torch.manual_seed(0)
    tokens = sum(lengths)
    return {
        "query": torch.randn(tokens, 1, 16).to(DTYPE),
        "key": torch.nn.functional.normalize(torch.randn(tokens, 1, 16), dim=-1).to(DTYPE),
        "value": torch.randn(tokens, 2, 16).to(DTYPE),
        "state": torch.randn(tokens + 2, 2, 16, 16),
        "beta": torch.rand(tokens, 2).to(DTYPE),
        "g": -torch.rand(tokens, 2),
        "scale": 0.25,
        "actual_seq_lengths": torch.tensor([0, *lengths], dtype=torch.int32),
        "ssm_state_indices": torch.arange(1, tokens + 1, dtype=torch.int32),
        "num_accepted_tokens": torch.ones(len(lengths), dtype=torch.int32),
    }


def test_the_recurrence_is_that_of_the_other_stack():
    theirs, ours = recurrent_arguments([3, 1, 8]), recurrent_arguments([3, 1, 8])
    expected = npu_recurrent_gated_delta_rule(**theirs)
    assert torch.equal(fla_npu_recurrent.recurrent_gated_delta_rule(**ours), expected)
    assert torch.equal(ours["state"], theirs["state"])


def test_the_recurrence_refuses():
    with pytest.raises(OperatorError, match="has 9 tokens, more than 8"):
        fla_npu_recurrent.recurrent_gated_delta_rule(**recurrent_arguments([9]))
    with pytest.raises(OperatorError, match="without g"):
        fla_npu_recurrent.recurrent_gated_delta_rule(**recurrent_arguments([2]) | {"g": None})


LENGTHS = (1, 64, 65, 130)


def fused_arguments(**changed: object) -> dict[str, object]:
    bounds = bounds_of(*LENGTHS)
    inputs = random_inputs(bounds[-1], DTYPE)
    by_head = {name: inputs[name].transpose(1, 2) for name in ("q", "k", "v")}
    torch.manual_seed(1)
    return (
        inputs
        | by_head
        | {
            "initial_state": torch.randn(len(LENGTHS), HEADS, DIM, DIM),
            "output_final_state": True,
            "cu_seqlens": tuple(bounds),
            "chunk_indices": tuple(fla_npu_chunk.canonical(bounds)),
            "scale": SCALE,
        }
        | changed
    )


@pytest.mark.parametrize("cann", [False, True])
def test_a_fused_prefill_equals_the_sequential_rule(cann: bool):
    given = fused_arguments()
    inputs = random_inputs(sum(LENGTHS), DTYPE)
    states = given["initial_state"]
    if cann:
        output, final = fla_npu_chunk.npu_chunk_gated_delta_rule(
            inputs["q"][0].contiguous(),
            inputs["k"][0].contiguous(),
            inputs["v"][0].contiguous(),
            beta=inputs["beta"][0],
            initial_state=states.mT.contiguous().to(DTYPE),
            actual_seq_lengths=torch.tensor(LENGTHS, dtype=torch.int32),
            scale=SCALE,
            g=inputs["g"][0],
        )
        final, states = final.mT, states.to(DTYPE)
    else:
        whole, final, *others = fla_npu_chunk.chunk_gated_delta_rule_fwd(**given)
        output = whole[0]
        assert len(others) == 8
    q, k = (inputs[name][0].repeat_interleave(HEADS // KEY_HEADS, 1) for name in ("q", "k"))
    v, g, beta = (inputs[name][0] for name in ("v", "g", "beta"))
    for i, (start, end) in enumerate(pairwise(bounds_of(*LENGTHS))):
        part = slice(start, end)
        expected, state = delta_rule(
            q[part], k[part], v[part], g[part], beta[part], states[i], SCALE
        )
        torch.testing.assert_close(output[part].double(), expected, rtol=0.02, atol=0.02)
        torch.testing.assert_close(final[i].double(), state, rtol=0.02, atol=0.03)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layout": "BSND"}, "layout BSND on a 910B"),
        ({"use_exp2": True}, "an option of other devices"),
        ({"state_v_first": True}, "an option of other devices"),
        ({"cu_seqlens": (0, 1, 1, 65, 130, 260)}, "an empty sequence"),
        ({"cu_seqlens": (0, 1, 65, 130, 259)}, "259"),
        ({"chunk_indices": (0, 0)}, "chunk_indices are not"),
        ({"initial_state": torch.zeros(1, HEADS, DIM, DIM)}, "initial_state is"),
        ({"g": torch.zeros(1, HEADS, sum(LENGTHS))}, "g is"),
    ],
)
def test_a_fused_prefill_refuses(changed: dict[str, object], message: str):
    with pytest.raises(OperatorError, match=message):
        fla_npu_chunk.chunk_gated_delta_rule_fwd(**fused_arguments(**changed))
