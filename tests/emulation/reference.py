# SPDX-License-Identifier: Apache-2.0
"""The gated delta rule and the convolution, one token after the other, in float64."""

from __future__ import annotations

import torch


def delta_rule(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``q``, ``k`` [T, H, K], ``v`` [T, H, V], ``g``, ``beta`` [T, H], ``state`` [H, K, V]."""
    outputs = []
    state = state.double()
    for t in range(len(q)):
        for_each_head = []
        for head in range(q.shape[1]):
            decayed = state[head] * g[t, head].double().exp()
            error = v[t, head].double() - k[t, head].double() @ decayed
            for_each_head.append(
                decayed + beta[t, head].double() * torch.outer(k[t, head].double(), error)
            )
        state = torch.stack(for_each_head)
        outputs.append(torch.einsum("hk,hkv->hv", q[t].double() * scale, state))
    return torch.stack(outputs), state


def convolution(x: torch.Tensor, weight: torch.Tensor, past: torch.Tensor) -> torch.Tensor:
    """``x`` [T, dim] after ``past`` [width - 1, dim]; ``weight`` [width, dim]; with SiLU."""
    inputs = torch.cat([past, x]).double()
    outputs = []
    for t in range(len(x)):
        total = sum(inputs[t + i] * weight[i].double() for i in range(len(weight)))
        outputs.append(total * torch.sigmoid(total))
    return torch.stack(outputs)
