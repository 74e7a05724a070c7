# SPDX-License-Identifier: Apache-2.0
"""What a chunk does by itself, without the state: its triangular system, solved, and its attention.

Four stages of vLLM 0.23.0 in one kernel, from the mathematics: ``chunk_local_cumsum``,
``chunk_scaled_dot_kkt``, ``solve_tril``, and the attention of ``chunk_o``.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _inverse(a, SIZE: tl.constexpr, LEVELS: tl.constexpr):
    """(I + a)^-1 of a strictly lower triangular ``a`` [SIZE, SIZE] float32; SIZE is 2**LEVELS.

    Blocks of 1, 2, 4, ... along the diagonal are inverted, two at a time: the inverse of two with
    ``m`` below and between them is x - x m x. Keys are of length 1 and betas at most 1, which keeps
    all that is multiplied here within 1: float16 holds it to 2**-12, and the model's dtype, which
    the result is rounded to, holds no more.
    """
    rows, cols = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    x = tl.where(rows == cols, 1.0, tl.where((rows ^ cols) == 1, -a, 0.0)).to(tl.float16)
    a = a.to(tl.float16)
    for level in tl.static_range(1, LEVELS):
        product = tl.dot(x, tl.dot(a, x).to(tl.float16))
        x -= tl.where((rows >> level ^ cols >> level) == 1, product, 0.0).to(tl.float16)
    return x.to(tl.float32)


@triton.jit
def chunk_solve_kernel(
    q,
    k,
    g,
    beta,
    decay_from_start,
    decay_to_end,
    solved,
    attention,
    Hk: tl.constexpr,
    Hv: tl.constexpr,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    CHUNK: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """One chunk of one value head."""
    head, chunk = tl.program_id(0), tl.program_id(1).to(tl.int64)
    tokens, keys = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K)
    place = chunk * Hv + head
    b_g = tl.load(g + place * CHUNK + tokens)
    b_beta = tl.load(beta + place * CHUNK + tokens)
    g_sum = tl.cumsum(b_g)
    tl.store(decay_from_start + place * CHUNK + tokens, tl.exp(g_sum))
    tl.store(decay_to_end + place * CHUNK + tokens, tl.exp(tl.sum(b_g) - g_sum))

    first_key = (chunk * CHUNK * Hk + head // (Hv // Hk)) * K
    key_rows = tokens[:, None] * (Hk * K) + keys[None, :]
    is_key = keys[None, :] < K
    b_k = tl.load(k + first_key + key_rows, is_key, other=0)
    reaches = tokens[:, None] >= tokens[None, :]
    decay = tl.where(reaches, g_sum[:, None] - g_sum[None, :], float("-inf"))
    decay = tl.exp(decay)
    tile = place * CHUNK * CHUNK + tokens[:, None] * CHUNK + tokens[None, :]
    b_q = tl.load(q + first_key + key_rows, is_key, other=0)
    tl.store(attention + tile, (tl.dot(b_q, tl.trans(b_k)) * decay).to(attention.dtype.element_ty))
    later = tokens[:, None] > tokens[None, :]
    a = tl.where(later, tl.dot(b_k, tl.trans(b_k)) * decay * b_beta[:, None], 0.0)
    x = _inverse(a, CHUNK, LEVELS) * b_beta[None, :]
    tl.store(solved + tile, x.to(solved.dtype.element_ty))
