# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from emulated_npu.checks import BFLOAT16, OperatorError
from emulated_npu.ops_recurrent import npu_fused_gdn_gating, npu_recurrent_gated_delta_rule

from .reference import delta_rule

KEY_HEADS, HEADS, KEYS, VALUES, BLOCKS = 1, 2, 32, 16, 9
LENGTHS = [2, 0, 3]
DTYPE = BFLOAT16[0]


def arguments(**changed: object) -> dict[str, object]:
    torch.manual_seed(0)
    tokens = sum(LENGTHS)
    return {
        "query": torch.randn(tokens, KEY_HEADS, KEYS).to(DTYPE),
        "key": torch.nn.functional.normalize(torch.randn(tokens, KEY_HEADS, KEYS), dim=-1).to(
            DTYPE
        ),
        "value": torch.randn(tokens, HEADS, VALUES).to(DTYPE),
        "state": torch.randn(BLOCKS, HEADS, VALUES, KEYS),
        "beta": torch.rand(tokens, HEADS).to(DTYPE),
        "scale": 0.5,
        "actual_seq_lengths": torch.tensor([0, *LENGTHS], dtype=torch.int32),
        "ssm_state_indices": torch.tensor([3, 4, 5, 6, 7], dtype=torch.int32),
        "g": -torch.rand(tokens, HEADS),
    } | changed


@pytest.mark.parametrize("accepted", [None, [2, 1, 3]])
def test_equals_the_sequential_rule(accepted: list[int] | None):
    given = arguments()
    before = given["state"].clone()
    if accepted is not None:
        given["num_accepted_tokens"] = torch.tensor(accepted, dtype=torch.int32)
    output = npu_recurrent_gated_delta_rule(**given)
    assert output.dtype == DTYPE
    query, key = (given[name].repeat_interleave(HEADS, 1) for name in ("query", "key"))
    for i, (start, end) in ((0, (0, 2)), (2, (2, 5))):
        first = start if accepted is None else start + accepted[i] - 1
        state = before[given["ssm_state_indices"][first]].transpose(1, 2)
        for t in range(start, end):  # the state after each token goes to that token's block
            part = slice(t, t + 1)
            expected, state = delta_rule(
                query[part], key[part], given["value"][part], given["g"][part],
                given["beta"][part], state, 0.5,
            )  # fmt: skip
            torch.testing.assert_close(output[part].double(), expected, rtol=0.01, atol=0.01)
            block = given["state"][given["ssm_state_indices"][t]]
            torch.testing.assert_close(block.double(), state.transpose(1, 2), rtol=1e-4, atol=1e-4)
    untouched = [0, 1, 2, 8]
    assert torch.equal(given["state"][untouched], before[untouched])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scale": None}, "scale is missing"),
        ({"beta": None}, "beta is missing"),
        ({"g": torch.zeros(5, HEADS, dtype=torch.float16)}, "g is torch.float16"),
        ({"actual_seq_lengths": torch.tensor([0, 2, 0, 3])}, "actual_seq_lengths is torch.int64"),
        ({"actual_seq_lengths": torch.tensor([0, 17], dtype=torch.int32)}, "more than 16"),
        ({"actual_seq_lengths": torch.tensor([3, 3], dtype=torch.int32)}, "tokens 3 to 6 of 5"),
        ({"ssm_state_indices": torch.full((5,), BLOCKS, dtype=torch.int32)}, "leave the 9 blocks"),
        ({"ssm_state_indices": torch.zeros(4, dtype=torch.int32)}, "4 state indices"),
        ({"num_accepted_tokens": torch.tensor([3, 1, 1], dtype=torch.int32)}, "3 accepted"),
        ({"num_accepted_tokens": torch.tensor([0, 1, 1], dtype=torch.int32)}, "0 accepted"),
        ({"state": torch.zeros(BLOCKS, HEADS, KEYS, VALUES)}, "state is"),
        ({"state": torch.zeros(BLOCKS * 2, HEADS, VALUES, KEYS)[::2]}, "not contiguous"),
    ],
)
def test_refuses(changed: dict[str, object], message: str):
    with pytest.raises(OperatorError, match=message):
        npu_recurrent_gated_delta_rule(**arguments(**changed))


def test_gating():
    heads = torch.tensor([0.5, -1.0])
    a, b = torch.tensor([[1.0, 30.0]]).to(DTYPE), torch.tensor([[0.0, 2.0]]).to(DTYPE)
    g, beta = npu_fused_gdn_gating(heads, a, b, torch.zeros(2))
    assert g.shape == beta.shape == (1, 1, 2)
    assert g.dtype == torch.float32 and beta.dtype == DTYPE
    expected = -heads.exp() * torch.tensor([1.3132617, 30.0])
    torch.testing.assert_close(g[0, 0], expected)
    torch.testing.assert_close(beta[0, 0], torch.tensor([0.5, 0.8807971]).to(DTYPE))
    with pytest.raises(OperatorError, match="dt_bias is torch"):
        npu_fused_gdn_gating(heads, a, b, torch.zeros(2, dtype=torch.float64))
