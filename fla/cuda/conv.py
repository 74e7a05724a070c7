# SPDX-License-Identifier: Apache-2.0
"""The convolution of a step's prefills, and what it makes: the arguments of the delta rule."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton

from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.attention.table_layout import CHUNK_SIZE
from ascend_gdn.fla.cuda.causal_conv1d import causal_conv1d_split_kernel
from ascend_gdn.fla.cuda.launch import BoundKernel, current_stream
from ascend_gdn.fla.gdn import Activations


class DeltaRuleInputs(NamedTuple):
    """Rows are the T tokens; or, in chunks, 64 a chunk of the NC, zeros behind a sequence's end."""

    q: torch.Tensor
    """[T or NC * 64, Hk, K] in the model's dtype: each of length 1; in chunks, of K ** -0.5."""
    k: torch.Tensor
    """The same, each of length 1."""
    v: torch.Tensor
    """[T or NC * 64, Hv, V]"""
    g: torch.Tensor
    """[T, Hv] or [NC, Hv, 64], float32: log decay."""
    beta: torch.Tensor
    """The same."""


class CausalConv1dSplit:
    """For layers of one shape.

    Args:
        key_heads: Heads of queries and keys a rank, Hk.
        value_heads: Heads of values a rank, Hv.
        key_dim: Columns of a key, K.
        value_dim: Columns of a value, V.
        width: Tokens that the convolution reaches over, W.
        activation: "silu", "swish" or None.
        has_bias: Whether there is a bias.
        in_chunks: Whether what it makes is laid out in chunks.
    """

    def __init__(
        self,
        key_heads: int,
        value_heads: int,
        key_dim: int,
        value_dim: int,
        width: int,
        activation: str | None,
        has_bias: bool,
        in_chunks: bool,
    ) -> None:
        self._key_heads, self._value_heads = key_heads, value_heads
        self._key_dim, self._value_dim = key_dim, value_dim
        self._in_chunks = in_chunks
        self._kernel = BoundKernel(
            causal_conv1d_split_kernel,
            SCALE=key_dim**-0.5 if in_chunks else 1.0,
            IN_CHUNKS=in_chunks,
            HAS_BIAS=has_bias,
            SILU=activation in ("silu", "swish"),
            WIDTH=width,
            Hk=key_heads,
            Hv=value_heads,
            K=key_dim,
            V=value_dim,
            BLOCK_D=triton.next_power_of_2(max(key_dim, value_dim)),
            BLOCK_W=triton.next_power_of_2(width - 1),
            CHUNK=CHUNK_SIZE,
            RUN=4,
            num_warps=4,
        )

    def __call__(
        self,
        x: Activations,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        A_log: torch.Tensor,
        dt_bias: torch.Tensor,
        conv_states: torch.Tensor,
        chunk: GDNChunkedPrefillMetadata,
        blocks: torch.Tensor,
        has_initial_state: torch.Tensor,
    ) -> DeltaRuleInputs:
        """Make the delta rule's arguments, and advance the convolution states.

        Args:
            x: Of the step's N prefills; rows of each tensor dense.
            weight: [conv_dim, 1, W], dense.
            bias: [conv_dim] or None.
            A_log: [Hv].
            dt_bias: [Hv].
            conv_states: [blocks, conv_dim, >= W - 1], updated.
            chunk: The step's tables.
            blocks: [N], where each prefill's state is.
            has_initial_state: [N] bool: whether it goes on from what is there.
        """
        mixed_qkv, b, a, _ = x
        chunk_indices, heads = chunk.chunk_indices_chunk64, self._value_heads
        chunks = chunk_indices.shape[0]
        if self._in_chunks:
            rows = chunks * CHUNK_SIZE
            g = mixed_qkv.new_empty(chunks, heads, CHUNK_SIZE, dtype=torch.float32)
        else:
            rows = mixed_qkv.shape[0]
            g = mixed_qkv.new_empty(rows, heads, dtype=torch.float32)
        beta = torch.empty_like(g)
        q = mixed_qkv.new_empty(rows, self._key_heads, self._key_dim)
        k = torch.empty_like(q)
        v = mixed_qkv.new_empty(rows, heads, self._value_dim)
        self._kernel(
            (2 * self._key_heads + heads, chunks, 1), current_stream(mixed_qkv.device),
            mixed_qkv, weight, bias, conv_states, a, b, A_log, dt_bias, q, k, v, g, beta,
            chunk.cu_seqlens, chunk_indices, blocks, has_initial_state,
            mixed_qkv.stride(0), a.stride(-2), b.stride(-2), *conv_states.stride(),
        )  # fmt: skip
        return DeltaRuleInputs(q, k, v, g, beta)
