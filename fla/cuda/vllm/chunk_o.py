# SPDX-License-Identifier: Apache-2.0
"""Output of each chunk, by vLLM's kernel: ``chunk_o.py`` of its FLA operators (0.23.0)."""

from __future__ import annotations

import torch
from vllm.model_executor.layers.fla.ops.chunk_o import chunk_fwd_kernel_o

from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.attention.table_layout import CHUNK_SIZE
from ascend_gdn.fla.cuda.vllm.tuned_kernel import TunedKernel


class ChunkFwdO:
    """For layers of one shape: heads and columns of keys and values, of a rank."""

    def __init__(self, key_heads: int, value_heads: int, key_dim: int, value_dim: int) -> None:
        self._value_heads, self._value_dim, self._scale = value_heads, value_dim, key_dim**-0.5
        self._kernel = TunedKernel(
            chunk_fwd_kernel_o,
            H=value_heads,
            BT=CHUNK_SIZE,
            Hg=key_heads,
            K=key_dim,
            V=value_dim,
        )

    def __call__(
        self,
        stream: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v_new: torch.Tensor,
        h: torch.Tensor,
        g_sum: torch.Tensor,
        out: torch.Tensor,
        chunk: GDNChunkedPrefillMetadata,
    ) -> None:
        """Write ``out`` [T, Hv, V] from the states ``h`` [NC, Hv, V, K] before each chunk."""
        tables, heads = chunk.chunk_indices_chunk64, self._value_heads
        chunks, columns = tables.shape[0], self._value_dim
        self._kernel(
            lambda meta: (-(-columns // meta["BV"]), chunks, heads), stream,
            q, k, v_new, h, g_sum, out, chunk.cu_seqlens, tables, self._scale, q.shape[0],
        )  # fmt: skip
