# SPDX-License-Identifier: Apache-2.0
"""Gates of Gated DeltaNet from the layer's projections."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def fused_gdn_gating(
    A_log: torch.Tensor, a: torch.Tensor, b: torch.Tensor, dt_bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log decay g = -exp(A_log) softplus(a + dt_bias) and beta = sigmoid(b).

    Args:
        A_log, dt_bias: [Hv], any floating dtype.
        a, b: [T, Hv], any floating dtype; computed in float32.

    Returns:
        g and beta, each [1, T, Hv] float32. (vLLM's operator rounds beta to b's dtype.)
    """
    g = F.softplus(a.float() + dt_bias.float()).mul_(A_log.float().exp().neg_())
    return g.unsqueeze(0), torch.sigmoid(b.float()).unsqueeze(0)
