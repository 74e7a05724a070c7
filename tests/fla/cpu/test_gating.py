# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch

from ascend_gdn.fla.cpu.gating import fused_gdn_gating


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gates_of_each_head(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    A_log, dt_bias = torch.rand(3), torch.rand(3).to(dtype)
    a, b = torch.randn(4, 3).mul_(20).to(dtype), torch.randn(4, 3).mul_(20).to(dtype)
    g, beta = fused_gdn_gating(A_log, a, b, dt_bias)
    assert g.shape == beta.shape == (1, 4, 3)
    assert g.dtype == beta.dtype == torch.float32
    for token in range(4):
        for head in range(3):
            x = float(a[token, head]) + float(dt_bias[head])
            softplus = x if x > 20 else math.log1p(math.exp(x))
            assert float(g[0, token, head]) == pytest.approx(
                -math.exp(float(A_log[head])) * softplus, rel=1e-5
            )
            sigmoid = 1 / (1 + math.exp(-float(b[token, head])))
            assert float(beta[0, token, head]) == pytest.approx(sigmoid, rel=1e-5)
