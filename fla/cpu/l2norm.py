# SPDX-License-Identifier: Apache-2.0
"""L2 normalisation of queries and keys over the head dimension."""

from __future__ import annotations

import torch

L2NORM_EPS = 1e-6
"""Added to the sum of squares; the value of ``l2norm_fwd`` in vllm 0.23.0 and of transformers."""


def l2norm_scale(x: torch.Tensor, eps: float = L2NORM_EPS) -> torch.Tensor:
    """Return [..., 1] float32: the factor that gives each row of ``x`` [..., D] unit length."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return norm.mul_(norm).add_(eps).rsqrt_()
