# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend's operator over the emulated kernel, against its parts, number by number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import pytest
import torch
import vllm_ascend.ops.triton.linearnorm.split_qkv_rmsnorm_mrope  # noqa: F401  # registers it

from emulated_npu.checks import BFLOAT16, OperatorError

HEADS, KV_HEADS, SIZE, EPS = 3, 2, 24, 1e-6
DTYPE = BFLOAT16[0]


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """``torch.empty`` gives NaNs."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)


def arguments(tokens: int = 5, sections: tuple[int, ...] = (3, 2, 1), **changed: object) -> dict:
    torch.manual_seed(0)
    width = SIZE * (2 * HEADS + 2 * KV_HEADS)
    angles = torch.rand(3, tokens, sum(sections)) * 6
    return {
        "qkv": torch.randn(tokens, width).to(DTYPE),
        "q_weight": torch.rand(SIZE) + 0.5,
        "k_weight": torch.rand(SIZE) + 0.5,
        "cos_sin": torch.cat([angles.cos(), angles.sin()], -1).to(DTYPE),
        "num_q_heads": HEADS,
        "num_kv_heads": KV_HEADS,
        "head_size": SIZE,
        "eps": EPS,
        "mrope_section": list(sections),
        "is_interleaved": True,
        "rope_dim": 2 * sum(sections),
        "has_gate": True,
    } | changed


def operator(**given: object) -> tuple[torch.Tensor, ...]:
    return torch.ops.vllm.triton_split_qkv_rmsnorm_mrope(**given)


def expected_head(
    head: list[float], weight: list[float], cos_sin: list[list[float]], sections: list[int]
) -> list[float]:
    """Frequencies are dealt to time, height and width in turn, and those left are time's."""
    half = sum(sections)
    axes = [0] * half
    for axis in (1, 2):
        for n in range(sections[axis]):
            axes[axis + 3 * n] = axis
    root = math.sqrt(sum(x * x for x in head) / SIZE + EPS)
    normed = [x / root * w for x, w in zip(head, weight, strict=True)]
    result = list(normed)
    for i, axis in enumerate(axes):
        turned = complex(normed[i], normed[half + i])
        turned *= complex(cos_sin[axis][i], cos_sin[axis][half + i])
        result[i], result[half + i] = turned.real, turned.imag
    return result


@pytest.mark.parametrize("tokens", [0, 1, 5, 48, 101])
@pytest.mark.parametrize("sections", [(3, 2, 1), (2, 2, 2), (4, 4, 4)], ids=str)
def test_equals_its_parts(tokens: int, sections: tuple[int, ...]):
    given = arguments(tokens, sections)
    q, k, v, gate = operator(**given)
    assert q.shape == gate.shape == (tokens, HEADS * SIZE)
    assert k.shape == v.shape == (tokens, KV_HEADS * SIZE)
    assert {each.dtype for each in (q, k, v, gate)} == {DTYPE}
    for t, row in enumerate(given["qkv"].double().tolist()):
        parts = [row[i : i + SIZE] for i in range(0, len(row), SIZE)]
        queries, gates = parts[: 2 * HEADS : 2], parts[1 : 2 * HEADS : 2]
        keys, values = parts[2 * HEADS :][:KV_HEADS], parts[2 * HEADS :][KV_HEADS:]
        cos_sin = given["cos_sin"][:, t].double().tolist()
        for heads, weight, actual in (
            (queries, given["q_weight"], q), (keys, given["k_weight"], k)
        ):  # fmt: skip
            wanted = [
                expected_head(head, weight.double().tolist(), cos_sin, given["mrope_section"])
                for head in heads
            ]
            # bfloat16 has 8 bits.
            wanted = torch.tensor(wanted, dtype=torch.float64).flatten()
            torch.testing.assert_close(actual[t].double(), wanted, rtol=0.004, atol=1e-5)
        assert gate[t].tolist() == [*chain(*gates)]
        assert v[t].tolist() == [*chain(*values)]


def test_without_gates():
    given = arguments()
    q_gate, k, v = given["qkv"].split([2 * HEADS * SIZE, KV_HEADS * SIZE, KV_HEADS * SIZE], -1)
    queries = q_gate.view(-1, HEADS, 2, SIZE)[:, :, 0].flatten(1)
    with_gates = operator(**given)
    without = operator(**given | {"qkv": torch.cat([queries, k, v], -1), "has_gate": False})
    for i in range(3):
        assert torch.equal(with_gates[i], without[i])
    assert without[3].numel() == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"has_gate": False}, "qkv is"),
        ({"qkv": torch.zeros(5, 240, dtype=torch.float64)}, "qkv is torch.float64"),
        ({"qkv": torch.zeros(240, 5, dtype=DTYPE).T}, "qkv is not contiguous"),
        ({"q_weight": torch.ones(SIZE - 1)}, "q_weight is"),
        ({"k_weight": torch.ones(2 * SIZE)[::2]}, "k_weight is not contiguous"),
        # Positions of text alone, [tokens]: the kernel would read two more rows behind them.
        ({"cos_sin": torch.zeros(5, 12, dtype=DTYPE)}, "cos_sin is"),
        ({"cos_sin": torch.zeros(3, 4, 12, dtype=DTYPE)}, "cos_sin is"),
        ({"mrope_section": [3, 2, 2]}, "sections"),
        ({"rope_dim": None}, "sections"),
        ({"is_interleaved": False}, "interleaved"),
        ({"q_bias": torch.zeros(SIZE), "k_bias": torch.zeros(SIZE)}, "biases"),
    ],
)
def test_refuses(changed: dict[str, object], message: str):
    with pytest.raises(OperatorError, match=message):
        operator(**arguments(**changed))
