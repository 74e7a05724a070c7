# SPDX-License-Identifier: Apache-2.0
"""Operators that only allocate their outputs, in place of those under a GDN layer on Ascend.

What is left of a layer's forward is its host time, the part that starves an NPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

CHUNK = 64


def npu_causal_conv1d_custom(output: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    return output


def npu_recurrent_gated_delta_rule(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, state: torch.Tensor, **_: object
) -> torch.Tensor:
    return torch.empty_like(value)


def npu_fused_gdn_gating(
    A_log: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *_: object, **__: object
) -> tuple[torch.Tensor, torch.Tensor]:
    return a.new_empty(1, *a.shape, dtype=torch.float32), b.new_empty(1, *b.shape)


def chunk_gated_delta_rule_fwd_h(
    k: torch.Tensor,
    w: torch.Tensor,
    u: torch.Tensor,
    g: torch.Tensor,
    *,
    initial_state: torch.Tensor,
    chunk_indices: Sequence[int],
    **_: object,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    h = k.new_empty(1, u.shape[1], len(chunk_indices) // 2, k.shape[3], u.shape[3])
    return h, u.new_empty(u.shape), torch.empty_like(initial_state)


def chunk_fwd_o(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: object, **__: object):
    return torch.empty_like(v)


def causal_conv1d_fn(x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    return torch.empty_like(x)


def causal_conv1d_update(*_: object, out: torch.Tensor, **__: object) -> torch.Tensor:
    return out


def recurrent_gated_delta_rule(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, state: torch.Tensor, **_: object
) -> torch.Tensor:
    return torch.empty_like(value)


def chunk_gated_delta_rule_fwd(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *_: object,
    initial_state: torch.Tensor,
    **__: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    return v.new_empty(1, v.shape[2], v.shape[1], v.shape[3]), torch.empty_like(initial_state)


def fused_gdn_gating_kernel(*_: object, **__: object) -> None: ...


def _gather_ssm_states_kernel(*_: object, **__: object) -> None: ...


def _scatter_ssm_states_kernel(*_: object, **__: object) -> None: ...


def chunk_local_cumsum(g: torch.Tensor, **_: object) -> torch.Tensor:
    return torch.empty_like(g)


def chunk_scaled_dot_kkt_fwd(k: torch.Tensor, beta: torch.Tensor, **_: object) -> torch.Tensor:
    return k.new_empty(1, k.shape[1], beta.shape[2], CHUNK, dtype=torch.float32)


def solve_tril(A: torch.Tensor, output_dtype: torch.dtype, **_: object) -> torch.Tensor:
    return torch.empty_like(A, dtype=output_dtype)


def recompute_w_u_fwd(
    k: torch.Tensor, v: torch.Tensor, **_: object
) -> tuple[torch.Tensor, torch.Tensor]:
    return k.new_empty(1, v.shape[1], v.shape[2], k.shape[3]), torch.empty_like(v)


def l2norm_fwd(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x.reshape(-1, x.shape[-1])).view(x.shape)


def clear_ssm_states(ssm_states: torch.Tensor, has_initial_state: torch.Tensor) -> None: ...


BY_NAME = {
    function.__name__: function
    for function in (
        npu_causal_conv1d_custom,
        npu_recurrent_gated_delta_rule,
        npu_fused_gdn_gating,
        chunk_gated_delta_rule_fwd_h,
        chunk_fwd_o,
        chunk_local_cumsum,
        chunk_scaled_dot_kkt_fwd,
        solve_tril,
        recompute_w_u_fwd,
        l2norm_fwd,
        clear_ssm_states,
        causal_conv1d_fn,
        causal_conv1d_update,
        recurrent_gated_delta_rule,
        chunk_gated_delta_rule_fwd,
        fused_gdn_gating_kernel,
        _gather_ssm_states_kernel,
        _scatter_ssm_states_kernel,
    )
} | {
    "chunk_gated_delta_rule_fwd_h_vllm": chunk_gated_delta_rule_fwd_h,
    "chunk_fwd_o_vllm": chunk_fwd_o,
}
