# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from emulated_npu.checks import NARROW, OperatorError
from emulated_npu.ops_conv import PREFILL, UPDATE, npu_causal_conv1d_custom

from .reference import convolution

DIM, WIDTH, BLOCKS, STATE = 32, 4, 8, 6
BOUNDS = [0, 1, 1, 6, 8]
INDICES = [3, 0, 5, 1]
DTYPE = NARROW[0]


def arguments(**changed: object) -> dict[str, object]:
    torch.manual_seed(0)
    x = torch.randn(BOUNDS[-1], DIM).to(DTYPE)
    return {
        "output": torch.full_like(x, float("nan")),
        "x": x,
        "weight": torch.randn(WIDTH, DIM).to(DTYPE),
        "conv_state": torch.randn(BLOCKS, STATE, DIM).to(DTYPE),
        "bias_opt": None,
        "query_start_loc_opt": torch.tensor(BOUNDS, dtype=torch.int32),
        "cache_indices_opt": torch.tensor(INDICES, dtype=torch.int32),
        "initial_state_mode_opt": torch.tensor([True, True, False, True]),
        "num_accepted_tokens_opt": None,
        "activation_mode": 1,
        "pad_slot_id": -1,
        "run_mode": PREFILL,
    } | changed


UPDATING = {"run_mode": UPDATE, "initial_state_mode_opt": None}


@pytest.mark.parametrize("mode", ["prefill", "update", "accepted"])
def test_equals_the_sequential_one(mode: str):
    accepted = torch.tensor([1, 1, 3, 2], dtype=torch.int32) if mode == "accepted" else None
    changed = {} if mode == "prefill" else UPDATING | {"num_accepted_tokens_opt": accepted}
    given = arguments(**changed)
    before = given["conv_state"].clone()
    assert npu_causal_conv1d_custom(**given) is given["output"]
    for i, block in enumerate(INDICES):
        start, end = BOUNDS[i : i + 2]
        first = 0 if accepted is None else int(accepted[i]) - 1
        past = before[block, first : first + WIDTH - 1]
        if mode == "prefill" and not given["initial_state_mode_opt"][i]:
            past = torch.zeros_like(past)
        if start == end:
            assert torch.equal(given["conv_state"][block], before[block])
            continue
        x = given["x"][start:end]
        expected = convolution(x, given["weight"], past)
        torch.testing.assert_close(
            given["output"][start:end].double(), expected, rtol=0.01, atol=0.01
        )
        inputs = torch.cat([past, x])
        if accepted is not None and WIDTH - 2 + len(x) <= STATE:
            kept = inputs[1:]
        else:
            kept = inputs[1 - WIDTH :]
        assert torch.equal(given["conv_state"][block, : len(kept)], kept)
        assert torch.equal(given["conv_state"][block, len(kept) :], before[block, len(kept) :])
    others = [i for i in range(BLOCKS) if i not in INDICES]
    assert torch.equal(given["conv_state"][others], before[others])


def test_padding_is_left_out():
    given = arguments(cache_indices_opt=torch.tensor([3, 0, -1, 1], dtype=torch.int32))
    npu_causal_conv1d_custom(**given)
    assert given["output"][1:6].isnan().all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(8, 24, dtype=DTYPE)}, "no multiple of 16"),
        ({"x": torch.zeros(8, DIM, dtype=torch.float64)}, "x is torch.float64"),
        ({"weight": torch.zeros(5, DIM, dtype=DTYPE)}, "width 5"),
        ({"conv_state": torch.zeros(BLOCKS, 2, DIM, dtype=DTYPE)}, "shorter than"),
        ({"conv_state": torch.zeros(BLOCKS, 12, DIM, dtype=DTYPE)[:, ::2]}, "not contiguous"),
        ({"query_start_loc_opt": torch.tensor([0, 1, 1, 6, 9])}, "does not rise within"),
        ({"query_start_loc_opt": torch.tensor([0, 2, 1, 6, 8])}, "does not rise within"),
        ({"cache_indices_opt": torch.tensor([3, 0, 8, 1])}, "leave the 8 blocks"),
        ({"cache_indices_opt": torch.tensor([3, 0, 5])}, "3 rows for 4"),
        ({"initial_state_mode_opt": torch.tensor([True])}, "initial_state_mode is"),
        ({"run_mode": UPDATE}, "run_mode 0 only"),
        ({"num_accepted_tokens_opt": torch.tensor([1, 1, 1, 1])}, "run_mode 1 only"),
        (
            UPDATING
            | {
                "query_start_loc_opt": torch.tensor([0, 1, 2, 3, 4, 5, 5, 7, 8]),
                "cache_indices_opt": torch.arange(8),
            },
            "8 sequences of 8 tokens",
        ),
    ],
)
def test_refuses(changed: dict[str, object], message: str):
    with pytest.raises(OperatorError, match=message):
        npu_causal_conv1d_custom(**arguments(**changed))
