# SPDX-License-Identifier: Apache-2.0
"""The Triton functions under vllm-ascend's chunked prefill, on the CPU.

Of ``vllm_ascend/ops/triton/fla/`` (0.23.0.post1), by the same names and with the same arguments;
shapes as there: ``[1, tokens, heads, ...]``. Each looks its tokens up in the tables that it is
given, and refuses tables that do not fit ``cu_seqlens``.
"""

from __future__ import annotations

import torch

from .checks import require, require_dtype, require_shape
from .chunk_tables import ChunkRows, chunk_rows

CHUNK = 64
LARGE_BLOCK = 608 * 2
CUMSUM_WORKING_SET = 2**18


def chunk_local_cumsum(
    g: torch.Tensor,
    chunk_size: int,
    reverse: bool = False,
    scale: float | None = None,
    cu_seqlens: torch.Tensor | None = None,
    head_first: bool = False,
    output_dtype: torch.dtype | None = torch.float32,
    *,
    block_indices: torch.Tensor | None = None,
) -> torch.Tensor:
    """``g`` [1, T, H] summed within each chunk."""
    name = "chunk_local_cumsum"
    require(not reverse and scale is None and not head_first, name, "an option not emulated")
    require_shape(name, "g", g, 1, None, None)
    working_set = max(1, CUMSUM_WORKING_SET // (g.shape[2] * chunk_size))
    block = 1 << (working_set - 1).bit_length()
    rows = rows_of(name, "block_indices", cu_seqlens, block_indices, block, g.shape[1])
    blocks = rows.gather(g[0].float())
    chunks = blocks.view(len(blocks), block // chunk_size, chunk_size, g.shape[2])
    sums = chunks.cumsum(2).view(blocks.shape)
    return rows.scatter(sums, g.shape[1])[None].to(output_dtype or g.dtype)


def chunk_scaled_dot_kkt_fwd(
    k: torch.Tensor,
    beta: torch.Tensor,
    g_cumsum: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    chunk_indices: torch.Tensor | None = None,
    chunk_size: int = CHUNK,
    output_dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Strictly lower ``beta_i k_i k_j exp(g_i - g_j)`` [1, T, H, chunk]; ``k`` [1, T, Hk, K]."""
    name = "chunk_scaled_dot_kkt_fwd"
    require(g_cumsum is not None, name, "without g_cumsum it is not emulated")
    require_shape(name, "beta", beta, 1, k.shape[1], None)
    require_shape(name, "g_cumsum", g_cumsum, *beta.shape)
    require_dtype(name, "g_cumsum", g_cumsum, torch.float32)
    rows = rows_of(name, "chunk_indices", cu_seqlens, chunk_indices, chunk_size, k.shape[1])
    keys = rows.gather(k[0].float()).repeat_interleave(beta.shape[2] // k.shape[2], 2)
    decays = rows.gather(g_cumsum[0])
    scores = torch.einsum("cthk,cshk->ctsh", keys, keys)
    difference = decays[:, :, None] - decays[:, None]
    lower = torch.ones(chunk_size, chunk_size, dtype=torch.bool).tril(-1)[..., None]
    scores = scores * difference.masked_fill(~lower, float("-inf")).exp()
    scores = scores * rows.gather(beta[0].float())[:, :, None]
    return rows.scatter(scores.transpose(2, 3), k.shape[1])[None].to(output_dtype)


def solve_tril(
    A: torch.Tensor,
    cu_seqlens: torch.Tensor | None = None,
    chunk_indices_large_block: torch.Tensor | None = None,
    chunk_indices_bt: torch.Tensor | None = None,
    output_dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The inverse of I + A in each chunk; ``A`` [1, T, H, chunk], strictly lower."""
    name = "solve_tril"
    size = A.shape[3]
    require_shape(name, "A", A, 1, None, None, CHUNK)
    rows_of(
        name,
        "chunk_indices_large_block",
        cu_seqlens,
        chunk_indices_large_block,
        LARGE_BLOCK,
        A.shape[1],
    )
    rows = rows_of(name, "chunk_indices_bt", cu_seqlens, chunk_indices_bt, size, A.shape[1])
    lower = rows.gather(A[0].float()).transpose(1, 2)  # [chunks, H, size, size]
    inverse = torch.linalg.solve_triangular(
        lower + torch.eye(size), torch.eye(size).expand_as(lower), upper=False, unitriangular=True
    )
    return rows.scatter(inverse.transpose(1, 2), A.shape[1])[None].to(output_dtype)


def recompute_w_u_fwd(
    k: torch.Tensor,
    v: torch.Tensor,
    beta: torch.Tensor,
    g_cumsum: torch.Tensor,
    A: torch.Tensor,
    cu_seqlens: torch.Tensor | None = None,
    chunk_indices: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``w`` [1, T, H, K] as ``k``, and ``u`` [1, T, H, V] as ``v``."""
    name = "recompute_w_u_fwd"
    tokens, heads = v.shape[1:3]
    require_shape(name, "k", k, 1, tokens, None, None)
    require_shape(name, "beta", beta, 1, tokens, heads)
    require_shape(name, "g_cumsum", g_cumsum, 1, tokens, heads)
    require_shape(name, "A", A, 1, tokens, heads, CHUNK)
    rows = rows_of(name, "chunk_indices", cu_seqlens, chunk_indices, CHUNK, tokens)
    inverse = rows.gather(A[0].float())
    factors = rows.gather(beta[0].float())[..., None]
    values = rows.gather(v[0].float()) * factors
    decay = rows.gather(g_cumsum[0].float()).exp()[..., None]
    keys = rows.gather(k[0].float()).repeat_interleave(heads // k.shape[2], 2) * factors * decay
    w = torch.einsum("cths,cshk->cthk", inverse, keys)
    u = torch.einsum("cths,cshv->cthv", inverse, values)
    return (
        rows.scatter(w, tokens)[None].to(k.dtype),
        rows.scatter(u, tokens)[None].to(v.dtype),
    )


def rows_of(
    name: str,
    table_name: str,
    cu_seqlens: torch.Tensor | None,
    table: torch.Tensor | None,
    size: int,
    tokens: int,
) -> ChunkRows:
    require(
        cu_seqlens is not None and table is not None,
        name,
        f"without cu_seqlens and {table_name} it is not emulated",
    )
    require(
        int(cu_seqlens[-1]) <= tokens,
        name,
        f"cu_seqlens end at {int(cu_seqlens[-1])}, past the {tokens} tokens",
    )
    return chunk_rows(name, table_name, cu_seqlens, table, size)
