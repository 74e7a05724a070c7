# SPDX-License-Identifier: Apache-2.0
"""Gated DeltaNet prefill on CUDA: the chunked delta rule over the step's tables.

The stages by vLLM's FLA kernels are those of its model_executor/layers/fla/ops/chunk.py (0.23.0).
"""

from __future__ import annotations

import torch
from vllm.model_executor.layers.fla.ops.chunk_delta_h import (
    chunk_gated_delta_rule_fwd_kernel_h_blockdim64,
)
from vllm.model_executor.layers.fla.ops.chunk_scaled_dot_kkt import chunk_scaled_dot_kkt_fwd_kernel
from vllm.model_executor.layers.fla.ops.cumsum import chunk_local_cumsum_scalar_kernel
from vllm.model_executor.layers.fla.ops.solve_tril import (
    FLA_TRIL_PRECISION,
    merge_16x16_to_64x64_inverse_kernel,
)
from vllm.model_executor.layers.fla.ops.utils import is_tma_supported
from vllm.model_executor.layers.fla.ops.wy_fast import recompute_w_u_fwd_kernel

from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.attention.table_layout import CHUNK_SIZE
from ascend_gdn.fla.chunk import ChunkGatedDeltaRule
from ascend_gdn.fla.cuda.launch import Grid, current_stream
from ascend_gdn.fla.cuda.vllm.chunk_o import ChunkFwdO
from ascend_gdn.fla.cuda.vllm.tuned_kernel import TunedKernel

_BLOCK = 64
"""Columns of K or V that ``recompute_w_u_fwd`` takes at a time (wy_fast.py, 0.23.0)."""


class VllmChunkGatedDeltaRule(ChunkGatedDeltaRule):
    """The rule by vLLM's FLA kernels; states are [N, Hv, V, K], float32 at the end.

    Args:
        key_heads: Heads of queries and keys a rank.
        value_heads: Heads of values a rank, a multiple of ``key_heads``.
        key_dim: Columns of a key, K; at most 256.
        value_dim: Columns of a value, V.
    """

    def __init__(self, key_heads: int, value_heads: int, key_dim: int, value_dim: int) -> None:
        self._heads, self._key_dim, self._value_dim = value_heads, key_dim, value_dim
        sizes = {"H": value_heads, "BT": CHUNK_SIZE}
        keys = {"Hg": key_heads, "K": key_dim}
        self._cumsum = TunedKernel(
            chunk_local_cumsum_scalar_kernel, B=1, **sizes, REVERSE=False, HEAD_FIRST=False
        )
        self._kkt = TunedKernel(chunk_scaled_dot_kkt_fwd_kernel, **sizes, **keys)
        self._solve = TunedKernel(
            merge_16x16_to_64x64_inverse_kernel,
            **sizes,
            USE_TMA=is_tma_supported,
            DOT_PRECISION=FLA_TRIL_PRECISION,
        )
        self._w_u = TunedKernel(
            recompute_w_u_fwd_kernel, **sizes, **keys, V=value_dim, BK=_BLOCK, BV=_BLOCK
        )
        self._h = TunedKernel(
            chunk_gated_delta_rule_fwd_kernel_h_blockdim64,
            **sizes,
            **keys,
            V=value_dim,
            USE_EXP2=False,
        )
        self._o = ChunkFwdO(key_heads, value_heads, key_dim, value_dim)

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
        q, k = qk
        cu_seqlens, chunk_indices = chunk.cu_seqlens, chunk.chunk_indices_chunk64
        tokens, heads, chunks = q.shape[0], self._heads, chunk_indices.shape[0]
        key_dim, value_dim = self._key_dim, self._value_dim
        seqs, stream = cu_seqlens.shape[0] - 1, current_stream(q.device)

        def grid(_: object) -> Grid:
            return chunks, heads, 1

        g_sum = torch.empty_like(g)
        self._cumsum(grid, stream, g, g_sum, cu_seqlens, chunk_indices, tokens)
        a = q.new_empty(tokens, heads, CHUNK_SIZE, dtype=torch.float32)
        self._kkt(grid, stream, k, beta, g_sum, a, cu_seqlens, chunk_indices, tokens)
        # Zeros: the kernel leaves the upper triangle out.
        a_inverse = q.new_zeros(tokens, heads, CHUNK_SIZE)
        self._solve(grid, stream, a, a_inverse, cu_seqlens, chunk_indices, tokens)
        w, u = q.new_empty(tokens, heads, key_dim), torch.empty_like(v)
        self._w_u(
            grid, stream, k, v, beta, w, u, a_inverse, g_sum, cu_seqlens, chunk_indices, tokens
        )
        h = q.new_empty(chunks, heads, value_dim, key_dim)
        final_state = q.new_empty(seqs, heads, value_dim, key_dim, dtype=torch.float32)
        v_new = torch.empty_like(v)
        self._h(
            lambda meta: (-(-value_dim // meta["BV"]), seqs * heads, 1), stream,
            k, u, w, v_new, g_sum, None, h, initial_state, final_state,
            cu_seqlens, chunk.chunk_offsets_chunk64, tokens,
            USE_INITIAL_STATE=initial_state is not None,
        )  # fmt: skip
        self._o(stream, q, k, v_new, h, g_sum, out, chunk)
        return final_state
