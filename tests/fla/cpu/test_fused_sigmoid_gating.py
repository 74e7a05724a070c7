# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from ascend_gdn.fla.cpu.fused_sigmoid_gating import (
    select_decode_kernel,
    torch_decode_kernel,
)

from .reference import relative_error

BF16, F32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("activations", "state", "A_log", "dt_bias", "supported"),
    [
        (BF16, F32, F32, BF16, True),
        (BF16, F32, BF16, BF16, True),
        (BF16, F32, F32, F32, False),
        (BF16, BF16, F32, BF16, False),
        (F32, F32, F32, F32, False),
        (torch.float16, F32, F32, torch.float16, False),
    ],
)
def test_chosen_by_dtype(
    activations: torch.dtype,
    state: torch.dtype,
    A_log: torch.dtype,
    dt_bias: torch.dtype,
    supported: bool,
) -> None:
    dtypes = {"activations": activations, "state": state, "A_log": A_log, "dt_bias": dt_bias}
    assert (select_decode_kernel(**dtypes) is not torch_decode_kernel) == supported


@pytest.mark.parametrize("A_log_dtype", [F32, BF16])
def test_the_two_kernels_agree(A_log_dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    batch, key_heads, value_heads, dim, blocks = 5, 2, 4, 64, 9
    kernel = select_decode_kernel(activations=BF16, state=F32, A_log=A_log_dtype, dt_bias=BF16)
    wide = torch.randn(batch, (2 * key_heads + value_heads) * dim).to(BF16)
    q, k, v = wide.split([key_heads * dim, key_heads * dim, value_heads * dim], dim=1)
    q, k = q.view(1, batch, key_heads, dim), k.view(1, batch, key_heads, dim)
    v = v.view(1, batch, value_heads, dim)
    A_log, dt_bias = torch.rand(value_heads).to(A_log_dtype), torch.rand(value_heads).to(BF16)
    a, b = torch.randn(2, batch, value_heads).to(BF16)
    states = torch.randn(blocks, value_heads, dim, dim)
    ours, theirs = states.clone(), states.clone()
    indices = torch.randperm(blocks)[:batch].to(torch.int32)
    cu_seqlens = torch.arange(batch + 1, dtype=torch.int32)
    found = kernel(A_log, dt_bias, q, k, v, a, b, theirs, indices, cu_seqlens)
    expected = torch_decode_kernel(A_log, dt_bias, q, k, v, a, b, ours, indices, cu_seqlens)
    assert found.shape == expected.shape == v.shape
    assert relative_error(found, expected) < 5e-3
    assert relative_error(theirs, ours) < 5e-3
