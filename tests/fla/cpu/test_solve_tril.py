# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from ascend_gdn.fla.cpu.solve_tril import solve_tril


@pytest.mark.parametrize("shape", [(1, 64), (3, 64), (40, 64)])
def test_inverts_and_reads_only_below_the_diagonal(shape: tuple[int, int]) -> None:
    batch, size = shape
    lower = torch.randn(batch, size, size).mul_(0.2).tril(-1)
    # Anything finite on and above the diagonal must not matter.
    upper = torch.randn(batch, size, size).mul_(100.0).triu()
    inverse = solve_tril((lower + upper).view(batch, 1, size, size)).view(batch, size, size)
    identity = torch.eye(size, dtype=torch.float64)
    expected = torch.linalg.inv(lower.double() + identity)
    torch.testing.assert_close(inverse.double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(inverse.triu(1), torch.zeros_like(inverse))


@pytest.mark.parametrize("batch", [2, 20])
def test_all_ones_has_an_exact_inverse(batch: int) -> None:
    """The system of one key repeated: intermediate powers of it would be huge."""
    inverse = solve_tril(torch.ones(batch, 64, 64))
    expected = torch.eye(64) - torch.diag(torch.ones(63), -1)
    torch.testing.assert_close(inverse, expected.expand(batch, 64, 64))
