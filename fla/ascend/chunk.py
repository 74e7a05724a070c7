# SPDX-License-Identifier: Apache-2.0
"""Gated DeltaNet prefill on Ascend: vLLM-Ascend's operators, over the step's tables.

The stages are those of vllm_ascend/ops/triton/fla/chunk.py (0.23.0, 0.30.0rc2), without what its
wrapper adds in every layer: tables cast to int64, outputs converted that nobody reads, an autograd
function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class ChunkOperators:
    """Where the versions of vLLM-Ascend differ."""

    fwd_h: Callable[..., Any]
    """The recurrence across chunks, of ``torch.ops._C_ascend``."""
    fwd_o: Callable[..., Any]
    """The output of each chunk, likewise."""
    decay_by_head: bool
    """Whether the Triton stages before them take the cumulated decay as [1, Hv, T], contiguous, and
    not as [1, T, Hv]."""


class AscendChunkGatedDeltaRule(ChunkGatedDeltaRule):
    """The rule by vLLM-Ascend's operators, in bfloat16; states are [N, Hv, K, V].

    Args:
        scale: Of the queries; K ** -0.5 in Qwen3-Next.
        operators: The installed version's.
    """

    def __init__(self, scale: float, operators: ChunkOperators) -> None:
        self.scale = scale
        self.operators = operators

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
        operators = self.operators
        g, w, u = chunk_terms(k, v, g, beta, chunk, operators.decay_by_head)
        # AscendC's operators take the heads before the tokens. They copy what is not contiguous
        # (csrc/moe/chunk_gated_delta_rule_fwd_h/op_host/op_api, ParamsDataContiguous, 0.23.0), so w
        # and u, which one operator reads once, and g, which is small, are left to them: 2 us each.
        q_heads, k_heads = qk.transpose(1, 2).contiguous().split_with_sizes((1, 1))
        if not operators.decay_by_head:
            g = g.transpose(1, 2)
        h, v_new, final_state = chunk_gated_delta_rule_fwd_h(
            operators.fwd_h,
            k_heads,
            w.transpose(1, 2),
            u.transpose(1, 2),
            g,
            initial_state,
            chunk,
        )
        chunk_fwd_o(operators.fwd_o, q_heads, k_heads, v_new, h, g, self.scale, out, chunk)
        return final_state


def chunk_terms(
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    chunk: GDNChunkedPrefillMetadata,
    decay_by_head: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a chunk contributes whatever the state before it.

    Returns:
        The decay summed up within each chunk, float32, [1, T, Hv], or [1, Hv, T] if it is wanted
        by head; w [1, T, Hv, K], u [1, T, Hv, V].
    """
    g = chunk_local_cumsum(
        g,
        chunk_size=CHUNK_SIZE,
        cu_seqlens=chunk.cu_seqlens,
        block_indices=chunk.block_indices_cumsum,
    )
    if decay_by_head:
        g = g.transpose(1, 2).contiguous()
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
