# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from ascend_gdn.fla.cpu.l2norm import l2norm_scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_have_unit_length(dtype: torch.dtype) -> None:
    x = torch.randn(3, 2, 16).to(dtype)
    x[0, 0] = 0.0  # The eps keeps a row of zeros a row of zeros.
    expected = x.double() / (x.double().square().sum(-1, keepdim=True) + 1e-6).sqrt()
    found = (x * l2norm_scale(x)).to(x.dtype)
    assert found.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
