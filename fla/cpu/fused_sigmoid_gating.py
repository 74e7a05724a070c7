# SPDX-License-Identifier: Apache-2.0
"""Decode from the layer's projections, by vLLM's C++ operator where it takes the dtypes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from vllm import _custom_ops as ops

from ascend_gdn.attention.cpu import SpecLayout
from ascend_gdn.fla.cpu.fused_recurrent import fused_recurrent_gated_delta_rule
from ascend_gdn.fla.cpu.gating import fused_gdn_gating

DecodeKernel = Callable[..., torch.Tensor]
"""With the parameters of :func:`torch_decode_kernel`."""


def torch_decode_kernel(
    A_log: torch.Tensor,
    dt_bias: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
    state_indices: torch.Tensor,
    cu_seqlens: torch.Tensor,
) -> torch.Tensor:
    """One decode step of B requests; q and k are normalised, queries scaled by K ** -0.5.

    Args:
        A_log, dt_bias: [Hv].
        q, k: [1, B, Hk, K], CPU.
        v: [1, B, Hv, V], same dtype.
        a, b: [B, Hv].
        state: [num_blocks, Hv, K, V]; the named blocks are updated in place.
        state_indices: [B] int32, all different.
        cu_seqlens: [B + 1] int32, 0..B; read by the C++ operator only.

    Returns:
        [1, B, Hv, V] in q's dtype.
    """
    g, beta = fused_gdn_gating(A_log, a, b, dt_bias)
    scale = k.shape[-1] ** -0.5
    return fused_recurrent_gated_delta_rule(q, k, v, g, beta, scale, state, state_indices)


def cpp_decode_kernel(*arguments: torch.Tensor) -> torch.Tensor:
    """The same by vLLM's C++ operator, for the dtypes of :func:`select_decode_kernel`."""
    return ops.fused_sigmoid_gating_delta_rule_update_cpu(*arguments, True).transpose(0, 1)


def spec_decode(
    kernel: DecodeKernel,
    A_log: torch.Tensor,
    dt_bias: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
    state_indices: torch.Tensor,
    num_accepted_tokens: torch.Tensor,
    layout: SpecLayout,
) -> torch.Tensor:
    """Advance S requests by the tokens that they verify, keeping the state after each of them.

    It starts from the state after the last accepted token of the step before, and is a decode step
    of ``kernel`` a place, so that a token's output is that of an ordinary decode
    (``fused_sigmoid_gating_delta_rule_update`` in
    vllm/model_executor/layers/fla/ops/fused_sigmoid_gating.py, 0.23.0).

    Args:
        kernel: Of one token a request.
        A_log, dt_bias, q, k, v, a, b, state: As for :func:`torch_decode_kernel`, for T tokens.
        state_indices: [S, >= L] integer: block for the state after each token, all different.
        num_accepted_tokens: [S] integer, 1 .. state_indices.shape[1]: whatever this step's tokens
            are, the state after that many of the last one's is taken.
        layout: Layout of the T tokens, at most L a request.

    Returns:
        [1, T, Hv, V] in q's dtype.
    """
    out = torch.empty_like(v, dtype=q.dtype)
    last = state_indices.gather(1, (num_accepted_tokens - 1).long().view(-1, 1))[:, 0]
    for place in range(layout.longest):
        rows = layout.used[:, place].nonzero()[:, 0]
        own = state_indices[rows, place]
        state.index_copy_(0, own.long(), state.index_select(0, last[rows]))
        tokens = layout.tokens[rows, place]
        out[:, tokens] = kernel(
            A_log,
            dt_bias,
            q[:, tokens],
            k[:, tokens],
            v[:, tokens],
            a[tokens],
            b[tokens],
            state,
            own,
            torch.arange(len(rows) + 1, dtype=torch.int32),
        )
        last = state_indices[:, place]
    return out


def select_decode_kernel(
    *, activations: torch.dtype, state: torch.dtype, A_log: torch.dtype, dt_bias: torch.dtype
) -> DecodeKernel:
    """Choose the decode kernel for these dtypes; called once, when a layer is made ready to run.

    What vLLM 0.23.0's ``fused_sigmoid_gating_delta_rule_update_cpu`` takes was tried: bfloat16
    activations (q, k, v, a, b) and dt_bias with a float32 state and a float32 or bfloat16 A_log;
    everything else is "Input tensor dtype mismatch". It normalises with eps 1e-5 where the models
    use 1e-6: no difference unless a row's squares sum to less than ~1e-3.
    """
    bf16, f32 = torch.bfloat16, torch.float32
    taken = (activations, dt_bias, state) == (bf16, bf16, f32) and A_log in (f32, bf16)
    return cpp_decode_kernel if taken else torch_decode_kernel
