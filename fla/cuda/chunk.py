# SPDX-License-Identifier: Apache-2.0
"""Gated DeltaNet prefill on CUDA: the chunked delta rule over the step's tables.

The stages by vLLM's FLA kernels are those of its model_executor/layers/fla/ops/chunk.py (0.23.0).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from vllm.model_executor.layers.fla.ops.chunk_delta_h import (
    chunk_gated_delta_rule_fwd_kernel_h_blockdim64,
)
from vllm.model_executor.layers.fla.ops.chunk_o import chunk_fwd_kernel_o
from vllm.model_executor.layers.fla.ops.chunk_scaled_dot_kkt import chunk_scaled_dot_kkt_fwd_kernel
from vllm.model_executor.layers.fla.ops.cumsum import chunk_local_cumsum_scalar_kernel
from vllm.model_executor.layers.fla.ops.solve_tril import (
    FLA_TRIL_PRECISION,
    merge_16x16_to_64x64_inverse_kernel,
)
from vllm.model_executor.layers.fla.ops.utils import is_tma_supported
from vllm.model_executor.layers.fla.ops.wy_fast import recompute_w_u_fwd_kernel

from ascend_gdn.attention.metadata import CHUNK_SIZE, GDNPrefillFallbackMeta, require_prefill_meta
from ascend_gdn.fla.cuda.launch import Grid, TunedKernel, current_stream

_BLOCK = 64
"""Columns of K or V that ``recompute_w_u_fwd`` takes at a time (wy_fast.py, 0.23.0)."""


class ChunkGatedDeltaRule(ABC):
    """The chunked delta rule for layers of one shape, whoever's kernels it is made of."""

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        initial_state: torch.Tensor | None,
        out: torch.Tensor,
        meta: GDNPrefillFallbackMeta | None,
        num_seqs: int,
        layer: str,
    ) -> torch.Tensor:
        """Apply the gated delta rule to N sequences of together T tokens.

        All tensors are contiguous and on the model's device.

        Args:
            q: [T, Hk, K] bfloat16 or float16, each vector of length 1.
            k: [T, Hk, K], likewise.
            v: [T, Hv, V] in the same dtype.
            g: [T, Hv] float32: log decay, at most 0.
            beta: [T, Hv] float32: in 0..1.
            initial_state: [N, Hv, V, K]; None if no sequence has any.
            out: [T, Hv, V], written.
            meta: The step's prefill metadata. Required: nothing here can make a table.
            num_seqs: N.
            layer: Name of the calling layer, for errors.

        Returns:
            The final state [N, Hv, V, K] float32.

        Raises:
            GDNContractError: ``meta`` is missing, of an earlier step, or of another batch.
        """
        tokens = q.shape[0]
        chunk = require_prefill_meta(meta, layer=layer, num_tokens=tokens, num_seqs=num_seqs).chunk
        return self.run(
            q, k, v, g, beta, initial_state, out,
            chunk.cu_seqlens, chunk.chunk_indices_chunk64, chunk.chunk_offsets_chunk64,
        )  # fmt: skip

    @abstractmethod
    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        initial_state: torch.Tensor | None,
        out: torch.Tensor,
        cu_seqlens: torch.Tensor,
        chunk_indices: torch.Tensor,
        chunk_offsets: torch.Tensor,
    ) -> torch.Tensor:
        """The same over tables given one by one, of chunks of 64."""


class TritonChunkGatedDeltaRule(ChunkGatedDeltaRule):
    """The rule by vLLM's FLA kernels.

    Args:
        key_heads: Heads of queries and keys a rank.
        value_heads: Heads of values a rank, a multiple of ``key_heads``.
        key_dim: Columns of a key, K; at most 256.
        value_dim: Columns of a value, V.
    """

    def __init__(self, key_heads: int, value_heads: int, key_dim: int, value_dim: int) -> None:
        self._heads, self._key_dim, self._value_dim = value_heads, key_dim, value_dim
        self.scale = key_dim**-0.5
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
        self._o = TunedKernel(chunk_fwd_kernel_o, **sizes, **keys, V=value_dim)

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        initial_state: torch.Tensor | None,
        out: torch.Tensor,
        cu_seqlens: torch.Tensor,
        chunk_indices: torch.Tensor,
        chunk_offsets: torch.Tensor,
    ) -> torch.Tensor:
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
            cu_seqlens, chunk_offsets, tokens, USE_INITIAL_STATE=initial_state is not None,
        )  # fmt: skip
        self._o(
            lambda meta: (-(-value_dim // meta["BV"]), chunks, heads), stream,
            q, k, v_new, h, g_sum, out, cu_seqlens, chunk_indices, self.scale, tokens,
        )  # fmt: skip
        return final_state
