# SPDX-License-Identifier: Apache-2.0
"""The prefill's kernels in Triton's interpreter: equal to a plain recurrence in float64.

bfloat16 is left to tests/gpu: the interpreter's products of it are garbage.
"""

from __future__ import annotations

import pytest
import torch

from .interpreted_prefills import interpreted
from .prefills import Case, Prefills, errors

MANY, FEW = 10_000, 1  # processors: for all programs at once; for one
CASES = [
    Case("all lengths", [1, 63, 64, 65, 127, 128, 129, 2, 3]),
    Case("empty ones between", [0, 70, 0, 0, 5, 0], heads=(2, 2)),
    Case("all remembered", [130, 64], a=-40.0),
    Case("all forgotten", [130, 64], a=10.0),
    Case("nothing written", [130, 64], b=-60.0),
    Case("all replaced", [130, 64], b=60.0),
    Case("the same key all over", [130, 64], b=60.0, a=-40.0, same_keys=True),
    Case("a bias, a state of float16", [70, 65], has_bias=True, state_dtype="float16"),
    Case("NaN in one", [70, 65, 3], nan_in=1),
    Case("heads of 96 and 64", [70], heads=(1, 4), dims=(96, 64)),
    Case("heads of 64 and 96", [70], dims=(64, 96)),
    Case("float32", [70, 65], dtype="float32"),
]


@pytest.fixture(scope="module")
def found():
    return dict(zip((case.name for case in CASES), interpreted(CASES, MANY), strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equal_to_a_plain_recurrence(case, found):
    out, state = errors(Prefills(case, torch.device("cpu")), found[case.name])
    print(f"relative error of outputs {out:.1e}, of states {state:.1e}")
    limit = 3e-5 if case.dtype == "float32" else 2e-3
    assert max(out, state) < limit


@pytest.mark.parametrize("dims", [(128, 128), (256, 256)])
def test_narrow_and_wide_programs_of_wider_heads(dims):
    case = Case("wide heads", [70, 3], heads=(1, 1), dims=dims)
    for processors in (MANY, FEW):
        (found,) = interpreted([case], processors)
        assert max(errors(Prefills(case, torch.device("cpu")), found)) < 2e-3


def test_what_the_convolution_lays_out_in_chunks_ends_with_zeros(found):
    inputs = found["all lengths"]
    row = 0
    for length in (1, 63, 64, 65, 127, 128, 129, 2, 3):
        end = row + -(-length // 64) * 64
        for rows in (inputs.q, inputs.k, inputs.v):
            assert rows[row : row + length].isfinite().all()
            assert not rows[row + length : end].any()
        row = end
    assert row == len(inputs.q)
