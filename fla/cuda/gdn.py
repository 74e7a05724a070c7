# SPDX-License-Identifier: Apache-2.0
"""The GDN layer on CUDA: vLLM's, but for the prefills that our builder planned.

State layouts are vLLM's: convolution [blocks, W - 1 + num_spec, conv_dim] (or its transpose),
recurrent [blocks, Hv, V, K].
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
from vllm.model_executor.layers.fla.ops import fused_sigmoid_gating_delta_rule_update
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.model_executor.layers.mamba.mamba_utils import is_conv_state_dim_first
from vllm.model_executor.layers.mamba.ops.causal_conv1d import causal_conv1d_update

from ascend_gdn.attention.cuda import StepCudaGDNAttentionBackend
from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata
from ascend_gdn.fla.chunk import ChunkGatedDeltaRule
from ascend_gdn.fla.cuda.chunk import TritonChunkGatedDeltaRule
from ascend_gdn.fla.cuda.conv import CausalConv1d, PostConv
from ascend_gdn.fla.cuda.flashinfer import FlashInferChunkGatedDeltaRule
from ascend_gdn.fla.gdn import Activations, StepGatedDeltaNetMixin


class StepCudaGatedDeltaNetAttention(StepGatedDeltaNetMixin, QwenGatedDeltaNetAttention):
    """vLLM's layer, its prefill driven by the step's metadata."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.make_kernels()

    def make_kernels(self) -> None:
        """Make the launchers of the prefill's kernels, once the layer's sizes are set."""
        sizes = (
            self.num_k_heads // self.tp_size,
            self.num_v_heads // self.tp_size,
            self.head_k_dim,
            self.head_v_dim,
        )
        self.causal_conv1d = CausalConv1d(
            self.conv1d.weight.shape[-1], self.activation, self.conv1d.bias is not None
        )
        self.post_conv = PostConv(*sizes)
        self.chunk_rule: ChunkGatedDeltaRule
        if self.gdn_prefill_backend == "flashinfer":
            self.chunk_rule = FlashInferChunkGatedDeltaRule(self.head_k_dim, self.head_v_dim)
        else:
            self.chunk_rule = TritonChunkGatedDeltaRule(*sizes)

    def get_attn_backend(self) -> type[StepCudaGDNAttentionBackend]:
        return StepCudaGDNAttentionBackend

    def _without_metadata(self, *arguments: torch.Tensor) -> None:  # vLLM's profile run
        if not self._prefill_kernels_warmed_up:
            self._warm_up(arguments[0])
        QwenGatedDeltaNetAttention._forward_core(self, *arguments)

    def _is_upstreams(self, metadata: object) -> bool:
        return isinstance(metadata, StepGDNAttentionMetadata) and metadata.num_prefills == 0

    def _conv_state(self) -> torch.Tensor:
        """[blocks, conv_dim, W - 1 + num_spec]"""
        conv_state = self.kv_cache[0]
        return conv_state if is_conv_state_dim_first() else conv_state.transpose(-1, -2)

    def _non_spec(self, x: Activations, metadata: StepGDNAttentionMetadata) -> None:
        """Decodes first, then prefills; one convolution for both."""
        conv1d = self.conv1d
        mixed_qkv = self.causal_conv1d(
            x.mixed_qkv, conv1d.weight, conv1d.bias, self._conv_state(), metadata
        )
        x = Activations(mixed_qkv, x.b, x.a, x.out)
        decodes = metadata.num_decode_tokens
        if decodes > 0:
            decoding, x = x.split(decodes)
            self._recurrent(
                decoding,
                metadata.non_spec_query_start_loc[: decodes + 1],
                metadata.non_spec_state_indices_tensor,
            )
        qk, v, g, beta = self.post_conv(x.mixed_qkv, x.a, x.b, self.A_log, self.dt_bias)
        meta: Any = metadata.non_spec_prefill_fallback_meta
        ssm_state, blocks = self.kv_cache[1], metadata.prefill_state_indices
        initial_state = None
        if metadata.num_initial_states > 0:
            initial_state = ssm_state.index_select(0, blocks)
            if metadata.num_initial_states < metadata.num_prefills:
                empty = ~metadata.prefill_has_initial_state
                initial_state.masked_fill_(empty.view(-1, 1, 1, 1), 0)
        final_state = self.chunk_rule(qk, v, g, beta, initial_state, x.out, meta.chunk)
        ssm_state.index_copy_(0, blocks, final_state.to(ssm_state.dtype))

    def _spec(self, x: Activations, metadata: StepGDNAttentionMetadata) -> None:
        """Requests that verify drafts."""
        states, accepted = metadata.spec_state_indices_tensor, metadata.num_accepted_tokens
        weight = self.conv1d.weight
        mixed_qkv = causal_conv1d_update(
            x.mixed_qkv,
            self._conv_state(),
            weight.view(weight.shape[0], weight.shape[-1]),
            self.conv1d.bias,
            self.activation,
            conv_state_indices=states[:, 0],
            num_accepted_tokens=accepted,
            query_start_loc=metadata.spec_query_start_loc,
            max_query_len=states.shape[-1],
        )
        x = Activations(mixed_qkv, x.b, x.a, x.out)
        self._recurrent(x, metadata.spec_query_start_loc, states, accepted)

    def _recurrent(
        self,
        x: Activations,
        query_start_loc: torch.Tensor,
        state_indices: torch.Tensor,
        num_accepted_tokens: torch.Tensor | None = None,
    ) -> None:
        """Write ``x.out``, and advance the recurrent states token by token."""
        q, k, v = self.rearrange_mixed_qkv(x.mixed_qkv)
        o, _ = fused_sigmoid_gating_delta_rule_update(
            A_log=self.A_log,
            a=x.a,
            b=x.b,
            dt_bias=self.dt_bias,
            q=q,
            k=k,
            v=v,
            initial_state=self.kv_cache[1],
            inplace_final_state=True,
            cu_seqlens=query_start_loc,
            ssm_state_indices=state_indices,
            num_accepted_tokens=num_accepted_tokens,
            use_qk_l2norm_in_kernel=True,
        )
        x.out.copy_(o.squeeze(0))

    def _warm_up(self, mixed_qkv: torch.Tensor) -> None:
        """Tune and compile, before the KV cache takes the memory and a request has to wait."""
        x = torch.zeros(65, mixed_qkv.shape[1], dtype=mixed_qkv.dtype, device=mixed_qkv.device)
        gates = x[:, : self.num_v_heads // self.tp_size].contiguous()
        # Triton compiles on its own for 1 token, for multiples of 16, and for gates whose first
        # row, behind an odd number of decodes, is not aligned to 16 bytes.
        for start, tokens in product((1, 0), (1, 2, 64)):
            own_x, own_gates = x[start : start + tokens], gates[start : start + tokens]
            qk, v, g, beta = self.post_conv(own_x, own_gates, own_gates, self.A_log, self.dt_bias)
        # Each at 16 bytes, as in the step's buffer: an unaligned one would be compiled for.
        tables = torch.zeros(3, 4, dtype=torch.int32, device=x.device)
        tables[0, 1], tables[1, 1] = 64, 1
        cu_seqlens, offsets, indices = tables[0, :2], tables[1, :2], tables[2:, :2]
        chunk = GDNChunkedPrefillMetadata(
            cu_seqlens, indices, offsets, offsets, indices[0, :1], indices, indices,
            np.array([0, 64], np.int32), np.zeros((1, 2), np.int32),
        )  # fmt: skip
        state = torch.zeros(
            1, *self.get_state_shape()[1], dtype=self.get_state_dtype()[1], device=x.device
        )
        for initial_state in (state, None):
            self.chunk_rule(qk, v, g, beta, initial_state, torch.empty_like(v), chunk)
