# SPDX-License-Identifier: Apache-2.0
"""Gated DeltaNet prefill on Ascend: vLLM-Ascend's operators, over the step's tables.

The stages are those of vllm_ascend/ops/triton/fla/chunk.py (0.23.0), without what its wrapper adds
in every layer: tables cast to int64, outputs converted that nobody reads, an autograd function.
"""

from __future__ import annotations

import torch
from vllm_ascend.ops.triton.fla.chunk_scaled_dot_kkt import chunk_scaled_dot_kkt_fwd
from vllm_ascend.ops.triton.fla.cumsum import chunk_local_cumsum
from vllm_ascend.ops.triton.fla.solve_tril import solve_tril
from vllm_ascend.ops.triton.fla.wy_fast import recompute_w_u_fwd

from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.attention.table_layout import CHUNK_SIZE
from ascend_gdn.fla.ascend.chunk_delta_h import chunk_gated_delta_rule_fwd_h
from ascend_gdn.fla.ascend.chunk_o import chunk_fwd_o
from ascend_gdn.fla.chunk import ChunkGatedDeltaRule


class AscendChunkGatedDeltaRule(ChunkGatedDeltaRule):
    """The rule by vLLM-Ascend's operators, in bfloat16; states are [N, Hv, K, V].

    Args:
        scale: Of the queries; K ** -0.5 in Qwen3-Next.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(
        self,
        qk: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        initial_state: torch.Tensor | None,
        out: torch.Tensor,
        chunk: GDNChunkedPrefillMetadata,
    ) -> torch.Tensor:
        assert isinstance(qk, torch.Tensor) and initial_state is not None
        _, k = qk.split_with_sizes((1, 1))  # a method in C++, which split is not
        g, w, u = chunk_terms(k, v, g, beta, chunk)
        # AscendC's operators take the heads before the tokens. They copy what is not contiguous
        # (csrc/moe/chunk_gated_delta_rule_fwd_h/op_host/op_api, ParamsDataContiguous, 0.23.0), so w
        # and u, which one operator reads once, and g, which is small, are left to them: 2 us each.
        q_heads, k_heads = qk.transpose(1, 2).contiguous().split_with_sizes((1, 1))
        g = g.transpose(1, 2)
        h, v_new, final_state = chunk_gated_delta_rule_fwd_h(
            k_heads, w.transpose(1, 2), u.transpose(1, 2), g, initial_state, chunk
        )
        chunk_fwd_o(q_heads, k_heads, v_new, h, g, self.scale, out, chunk)
        return final_state


def chunk_terms(
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    chunk: GDNChunkedPrefillMetadata,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a chunk contributes whatever the state before it.

    Returns:
        The decay summed up within each chunk [1, T, Hv] float32, w [1, T, Hv, K], u [1, T, Hv, V].
    """
    g = chunk_local_cumsum(
        g,
        chunk_size=CHUNK_SIZE,
        cu_seqlens=chunk.cu_seqlens,
        block_indices=chunk.block_indices_cumsum,
    )
    a = chunk_scaled_dot_kkt_fwd(
        k=k,
        beta=beta,
        g_cumsum=g,
        cu_seqlens=chunk.cu_seqlens,
        chunk_indices=chunk.chunk_indices_chunk64,
        output_dtype=torch.float32,
    )
    a_inverse = solve_tril(
        A=a,
        cu_seqlens=chunk.cu_seqlens,
        chunk_indices_large_block=chunk.chunk_indices_large_block,
        chunk_indices_bt=chunk.chunk_indices_chunk64,
        output_dtype=k.dtype,
    )
    w, u = recompute_w_u_fwd(
        k=k,
        v=v,
        beta=beta,
        A=a_inverse,
        g_cumsum=g,
        cu_seqlens=chunk.cu_seqlens,
        chunk_indices=chunk.chunk_indices_chunk64,
    )
    return g, w, u
