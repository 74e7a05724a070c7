# SPDX-License-Identifier: Apache-2.0
"""The two kernels before the chunked delta rule: vLLM's, launched over the step's tables."""

from __future__ import annotations

import torch
import triton
from vllm.model_executor.layers.fla.ops.fused_gdn_prefill_post_conv import _fused_post_conv_kernel
from vllm.model_executor.layers.mamba.ops.causal_conv1d import _causal_conv1d_fwd_kernel
from vllm.v1.attention.backends.utils import NULL_BLOCK_ID, PAD_SLOT_ID

from ascend_gdn.attention.cuda import CONV_BLOCK
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata
from ascend_gdn.fla.cuda.launch import BoundKernel, current_stream

_CHANNELS = 256
"""Channels that a program of the convolution takes (causal_conv1d.py, 0.23.0)."""

_POST_TOKENS = 16
"""Tokens that a program after it takes (fused_gdn_prefill_post_conv.py, 0.23.0)."""


class CausalConv1d:
    """The convolution of decodes and prefills, for layers of one shape.

    As ``causal_conv1d_fn`` in vllm/model_executor/layers/mamba/ops/causal_conv1d.py (0.23.0).

    Args:
        width: Tokens that it reaches over, W.
        activation: "silu", "swish" or None.
        has_bias: Whether there is a bias.
    """

    def __init__(self, width: int, activation: str | None, has_bias: bool) -> None:
        self._width = width
        self._kernel = BoundKernel(
            _causal_conv1d_fwd_kernel,
            HAS_BIAS=has_bias,
            KERNEL_WIDTH=width,
            SILU_ACTIVATION=activation in ("silu", "swish"),
            IS_APC_ENABLED=False,
            HAS_NULL_BLOCK=True,
            NP2_STATELEN=triton.next_power_of_2(width - 1),
            BLOCK_M=CONV_BLOCK,
            BLOCK_N=_CHANNELS,
            num_stages=2,
        )

    def __call__(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        conv_states: torch.Tensor,
        metadata: StepGDNAttentionMetadata,
    ) -> torch.Tensor:
        """Convolve all tokens, and advance the convolution states.

        Args:
            x: [T, conv_dim], rows dense.
            weight: [conv_dim, 1, W], dense.
            bias: [conv_dim] or None.
            conv_states: [blocks, conv_dim, >= W - 1], updated; in its dtype the kernel computes.
            metadata: Of the step; its convolution tables are on the device.

        Returns:
            [T, conv_dim], contiguous.
        """
        dtype = x.dtype
        if dtype != conv_states.dtype:
            x = x.to(conv_states.dtype)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        channels, batch_ptr = x.shape[1], metadata.batch_ptr
        self._kernel(
            (batch_ptr.shape[0], -(-channels // _CHANNELS), 1), current_stream(x.device),
            x, weight, bias, conv_states, metadata.non_spec_state_indices_tensor,
            metadata.has_initial_state, metadata.non_spec_query_start_loc, batch_ptr,
            metadata.token_chunk_offset_ptr,
            None, None, None, None,  # for prefix caching of all states
            out, channels, conv_states.shape[0],
            1, x.stride(0),  # strides: of x,
            self._width, 1,  # of the weight,
            *conv_states.stride(),
            1,  # of the state indices,
            1, channels,  # of out,
            0,  # of the blocks of states that prefix caching keeps
            PAD_SLOT_ID, NULL_BLOCK_ID,
        )  # fmt: skip
        return out if out.dtype == dtype else out.to(dtype)


class PostConv:
    """Cuts the convolution's output into heads, brings queries and keys to length 1, makes gates.

    As ``fused_post_conv_prep`` in vllm/model_executor/layers/fla/ops/fused_gdn_prefill_post_conv.py
    (0.23.0).

    Args:
        key_heads: Heads of queries and keys a rank, Hk.
        value_heads: Heads of values a rank, Hv.
        key_dim: Columns of a key, K.
        value_dim: Columns of a value, V.
    """

    def __init__(self, key_heads: int, value_heads: int, key_dim: int, value_dim: int) -> None:
        self._key_heads, self._value_heads = key_heads, value_heads
        self._key_dim, self._value_dim = key_dim, value_dim
        self._kernel = BoundKernel(
            _fused_post_conv_kernel,
            H=key_heads,
            HV=value_heads,
            K=key_dim,
            V=value_dim,
            APPLY_L2NORM=True,
            L2NORM_EPS=1e-6,
            OUTPUT_G_EXP=False,
            SOFTPLUS_THRESHOLD=20.0,
            BLOCK_T=_POST_TOKENS,
            BK=triton.next_power_of_2(key_dim),
            BV=triton.next_power_of_2(value_dim),
            num_warps=4,
            num_stages=2,
        )

    def __call__(
        self,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        A_log: torch.Tensor,
        dt_bias: torch.Tensor,
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
        """Make the arguments of the delta rule.

        Args:
            x: [T, conv_dim], the convolution's output.
            a: [T, Hv], decay input.
            b: [T, Hv], before the sigmoid.
            A_log: [Hv].
            dt_bias: [Hv].

        Returns:
            qk, two of [T, Hk, K], and v [T, Hv, V] in ``x``'s dtype; g, beta [T, Hv] float32. All
            contiguous.
        """
        tokens, key_heads, value_heads = x.shape[0], self._key_heads, self._value_heads
        q = x.new_empty(tokens, key_heads, self._key_dim)
        k = torch.empty_like(q)
        v = x.new_empty(tokens, value_heads, self._value_dim)
        g = x.new_empty(tokens, value_heads, dtype=torch.float32)
        beta = torch.empty_like(g)
        self._kernel(
            (-(-tokens // _POST_TOKENS), key_heads + value_heads, 1), current_stream(x.device),
            x, a, b, A_log, dt_bias, q, k, v, g, beta, x.stride(0), a.stride(0), b.stride(0),
            key_heads * self._key_dim, key_heads * self._key_dim, value_heads * self._value_dim,
            tokens,
        )  # fmt: skip
        return (q, k), v, g, beta
