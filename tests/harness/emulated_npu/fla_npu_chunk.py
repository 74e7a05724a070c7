# SPDX-License-Identifier: Apache-2.0
"""Fused prefills: ``chunk_gated_delta_rule_fwd`` of ``fla_npu``, ``npu_chunk_gated_delta_rule``.

The former's signature: ``torch_custom/fla_npu/fla_npu/ops/ascendc/_stable.py`` of
flashserve/flash-linear-attention-npu; its checks: ``op_host/op_api`` of
``fla/ops/ascendc/gdn/chunk_gdn_fwd/chunk_gated_delta_rule_fwd`` there, for 910B. The latter is
CANN's: its interface from vllm_ascend/ops/gdn.py (0.30.0rc2), which probes for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from . import triton_chunk
from .checks import BFLOAT16, NARROW, require, require_contiguous, require_dtype, require_shape
from .ops_chunk import chunk_fwd_o, chunk_gated_delta_rule_fwd_h

FWD, CANN = "chunk_gated_delta_rule_fwd", "npu_chunk_gated_delta_rule"
CHUNK = 64
WIDTH = 128
"""Of the heads."""


def chunk_gated_delta_rule_fwd(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    *,
    initial_state: torch.Tensor | None = None,
    output_final_state: bool = False,
    chunk_size: int = 64,
    cu_seqlens: Sequence[int] | None = None,
    chunk_indices: Sequence[int] | None = None,
    scale: float | None = None,
    use_exp2: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    disable_recompute: bool = True,
    return_intermediate_states: bool = False,
    state_v_first: bool = False,
    a_log: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    layout: str = "BNSD",
) -> tuple[torch.Tensor | None, ...]:
    """The output [1, T, Hv, V], the final states [N, Hv, K, V], and eight that training needs.

    ``q``, ``k`` [1, Hk, T, K], ``v`` [1, Hv, T, V], all of one 16-bit type; ``g``, ``beta``
    [1, T, Hv]; ``initial_state`` [N, Hv, K, V]; ``cu_seqlens``, ``chunk_indices`` on the host.
    """
    require(layout == "BNSD", FWD, f"layout {layout} on a 910B")
    unsupported = use_exp2 or use_gate_in_kernel or allow_neg_eigval or state_v_first
    unsupported = unsupported or use_qk_l2norm_in_kernel or use_beta_sigmoid_in_kernel
    require(not unsupported and not return_intermediate_states, FWD, "an option of other devices")
    require(a_log is None and dt_bias is None, FWD, "a_log or dt_bias")
    require(chunk_size == CHUNK and output_final_state, FWD, "not emulated so")
    require_dtype(FWD, "q", q, *NARROW)
    require_shape(FWD, "q", q, 1, None, None, WIDTH)
    require_shape(FWD, "k", k, *q.shape)
    require_shape(FWD, "v", v, 1, None, q.shape[2], WIDTH)
    require(v.shape[1] % q.shape[1] == 0, FWD, "value heads are no multiple of key heads")
    tokens, heads = v.shape[2], v.shape[1]
    for name, tensor in {"k": k, "v": v}.items():
        require_dtype(FWD, name, tensor, q.dtype)
    require_dtype(FWD, "g", g, torch.float32)
    require_dtype(FWD, "beta", beta, torch.float32, q.dtype)
    for name, tensor in {"g": g, "beta": beta}.items():
        require_shape(FWD, name, tensor, 1, tokens, heads)
    require(cu_seqlens is not None and chunk_indices is not None, FWD, "a table is missing")
    bounds, expected = list(cu_seqlens), canonical(cu_seqlens)
    require(bounds[0] == 0 and bounds[-1] == tokens, FWD, f"cu_seqlens {bounds}, {tokens} tokens")
    require(all(a < b for a, b in pairwise(bounds)), FWD, f"an empty sequence: {bounds}")
    require(list(chunk_indices) == expected, FWD, f"chunk_indices are not {expected}")
    if initial_state is not None:
        require_shape(FWD, "initial_state", initial_state, len(bounds) - 1, heads, WIDTH, WIDTH)
        require_dtype(FWD, "initial_state", initial_state, torch.float32, q.dtype)
    scale = WIDTH**-0.5 if scale is None else scale
    out, final = whole_rule(q, k, v, g, beta, initial_state, bounds, scale)
    return out, final, None, None, None, None, q, k, None, None


def npu_chunk_gated_delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    beta: torch.Tensor,
    initial_state: torch.Tensor,
    actual_seq_lengths: torch.Tensor,
    scale: float,
    g: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output [T, Hv, V] and the final states, as ``initial_state`` [N, Hv, V, K], bfloat16.

    ``query``, ``key`` [T, Hk, K], ``value`` [T, Hv, V], ``beta`` [T, Hv], bfloat16; ``g`` [T, Hv];
    ``actual_seq_lengths`` int32 [N]: lengths.
    """
    for name, tensor in {"query": query, "key": key, "value": value, "beta": beta}.items():
        # Whatever the width: vllm-ascend tries it out in bfloat16.
        require_dtype(CANN, name, tensor, *BFLOAT16, torch.bfloat16)
        require_contiguous(CANN, **{name: tensor})
    require_dtype(CANN, "g", g, torch.float32)
    require_contiguous(CANN, g=g, initial_state=initial_state)
    require_dtype(CANN, "initial_state", initial_state, value.dtype)
    require_dtype(CANN, "actual_seq_lengths", actual_seq_lengths, torch.int32)
    require_shape(CANN, "query", query, None, None, WIDTH)
    require_shape(CANN, "value", value, len(query), None, WIDTH)
    sequences, heads = len(actual_seq_lengths), value.shape[1]
    require_shape(CANN, "initial_state", initial_state, sequences, heads, WIDTH, WIDTH)
    bounds = [0, *actual_seq_lengths.cumsum(0).tolist()]
    require(bounds[-1] == len(query), CANN, f"lengths up to {bounds[-1]}, {len(query)} tokens")
    require(all(a < b for a, b in pairwise(bounds)), CANN, f"an empty sequence: {bounds}")
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
    out, final = whole_rule(
        q, k, v, g[None], beta[None], initial_state.mT.contiguous(), bounds, scale
    )
    return out[0], final.mT.contiguous().to(initial_state.dtype)


def canonical(bounds: Sequence[int], size: int = CHUNK) -> list[int]:
    """(sequence, chunk of it), flat."""
    return [
        number
        for i, (start, end) in enumerate(pairwise(bounds))
        for chunk in range(-((start - end) // size))
        for number in (i, chunk)
    ]


def whole_rule(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    initial_state: torch.Tensor | None,
    bounds: Sequence[int],
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The stages that vllm-ascend puts together; ``q``, ``k``, ``v`` by head."""

    def table(size: int) -> torch.Tensor:
        return torch.tensor(canonical(bounds, size), dtype=torch.int32).view(-1, 2)

    cu_seqlens, chunks = torch.tensor(bounds, dtype=torch.int32), table(CHUNK)
    by_token_k, by_token_v = k.transpose(1, 2), v.transpose(1, 2)
    block = 1 << (2**18 // (v.shape[1] * CHUNK) - 1).bit_length()
    beta = beta.to(q.dtype)
    g = triton_chunk.chunk_local_cumsum(g, CHUNK, cu_seqlens=cu_seqlens, block_indices=table(block))
    a = triton_chunk.chunk_scaled_dot_kkt_fwd(
        k=by_token_k, beta=beta, g_cumsum=g, cu_seqlens=cu_seqlens, chunk_indices=chunks
    )
    a = triton_chunk.solve_tril(a, cu_seqlens, table(1216), chunks, q.dtype)
    w, u = triton_chunk.recompute_w_u_fwd(by_token_k, by_token_v, beta, g, a, cu_seqlens, chunks)
    host = {"cu_seqlens": list(bounds), "chunk_indices": chunks.flatten().tolist()}
    w, u, g = (tensor.transpose(1, 2) for tensor in (w, u, g))
    h, new_values, final = chunk_gated_delta_rule_fwd_h(
        k, w, u, g, initial_state=initial_state, output_final_state=True, **host
    )
    out = chunk_fwd_o(q, k, new_values, h, scale, g=g, **host)
    return out.transpose(1, 2).contiguous(), final
