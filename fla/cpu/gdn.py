# SPDX-License-Identifier: Apache-2.0
"""The GDN layer on CPU."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.model_executor.layers.mamba.mamba_utils import is_conv_state_dim_first

from ascend_gdn.attention.cpu import StepCPUGDNAttentionBackend, StepCPUGDNAttentionMetadata
from ascend_gdn.fla.cpu.causal_conv1d import (
    causal_conv1d_fn,
    causal_conv1d_update,
    causal_conv1d_update_spec,
)
from ascend_gdn.fla.cpu.chunk import CPUChunkGatedDeltaRule
from ascend_gdn.fla.cpu.fused_sigmoid_gating import select_decode_kernel, spec_decode
from ascend_gdn.fla.cpu.gating import fused_gdn_gating
from ascend_gdn.fla.gdn import Activations, StepGatedDeltaNetMixin

_NORM_ROWS = 1024
"""Rows of the gated norm at a time. Its float32 temporaries then stay in cache; at the size of a
whole prefill each is fresh memory, and the norm takes several times as long."""


class PlainConvWeights(UnquantizedLinearMethod):
    """Leaves the convolution's weights as they were loaded: [conv_dim, 1, W].

    vLLM packs them for its own operator on CPUs with AMX (``dispatch_cpu_unquantized_gemm`` in
    model_executor/layers/utils.py, 0.23.0), which ours cannot read.
    """

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        pass


class StepCPUGatedDeltaNetAttention(StepGatedDeltaNetMixin, QwenGatedDeltaNetAttention):
    """vLLM's layer on CPU, over kernels in PyTorch.

    The projections, the norm and the cache are vLLM's. The recurrent state is kept as [K, V] a
    head, as vLLM's C++ operators for CPU expect it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # vLLM's generic path, which reaches _forward_core through a graph-splitting operator; its
        # own CPU path (forward_cpu, 0.23.0) takes bfloat16 only and rebuilds the prefill's
        # metadata.
        self._forward_method = self.forward_cuda
        self.conv1d.quant_method = PlainConvWeights()
        self.chunk_rule = CPUChunkGatedDeltaRule(self.head_k_dim**-0.5)
        self.decode_kernel = select_decode_kernel(
            activations=self.model_config.dtype,
            state=self.get_state_dtype()[1],
            A_log=self.A_log.dtype,
            dt_bias=self.dt_bias.dtype,
        )

    def get_attn_backend(self) -> type[StepCPUGDNAttentionBackend]:
        return StepCPUGDNAttentionBackend

    def _non_spec(self, x: Activations, metadata: StepCPUGDNAttentionMetadata) -> None:
        decodes, prefills = x.split(metadata.num_decode_tokens)
        if metadata.num_decodes > 0:
            self._decode(decodes, metadata)
        if metadata.num_prefills > 0:
            self._prefill(prefills, metadata)

    def normed_projection(self, core_attn_out: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """What vLLM's ``_output_projection`` makes, the norm some rows at a time.

        Args:
            core_attn_out: [tokens, value heads, V]; overwritten.
            z: [tokens, value heads, V], the gate.

        Returns:
            [tokens, hidden].
        """
        rows = core_attn_out.view(-1, self.head_v_dim).split(_NORM_ROWS)
        for part, gate in zip(rows, z.reshape(-1, self.head_v_dim).split(_NORM_ROWS), strict=True):
            part.copy_(self.norm(part, gate))
        return self.out_proj(core_attn_out.flatten(-2))[0]

    def _states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The cache: conv state [blocks, conv_dim, W - 1], recurrent state [blocks, Hv, K, V]."""
        conv_state, ssm_state = self.kv_cache
        if not is_conv_state_dim_first():
            conv_state = conv_state.transpose(-1, -2)
        blocks, heads, v_dim, k_dim = ssm_state.shape
        return conv_state, ssm_state.view(blocks, heads, k_dim, v_dim)

    def _heads(self, mixed_qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of q and k [2, tokens, Hk, K], and of v [tokens, Hv, V]."""
        key_dim, value_dim = self.key_dim // self.tp_size, self.value_dim // self.tp_size
        qk, v = mixed_qkv.split([2 * key_dim, value_dim], dim=-1)
        qk = qk.unflatten(-1, (2, -1, self.head_k_dim)).transpose(0, 1)
        return qk, v.unflatten(-1, (-1, self.head_v_dim))

    def _decode(self, x: Activations, metadata: StepCPUGDNAttentionMetadata) -> None:
        conv_state, ssm_state = self._states()
        decodes = metadata.num_decodes
        state_indices = metadata.non_spec_state_indices_tensor[:decodes]
        mixed_qkv = causal_conv1d_update(
            x.mixed_qkv,
            conv_state,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            self.activation,
            conv_state_indices=state_indices,
        )
        qk, v = self._heads(mixed_qkv)
        q, k = qk.unsqueeze(1).unbind(0)
        o = self.decode_kernel(
            self.A_log,
            self.dt_bias,
            q,
            k,
            v.unsqueeze(0),
            x.a,
            x.b,
            ssm_state,
            state_indices,
            metadata.non_spec_query_start_loc[: decodes + 1],
        )
        x.out.copy_(o.squeeze(0))

    def _spec(self, x: Activations, metadata: StepCPUGDNAttentionMetadata) -> None:
        conv_state, ssm_state = self._states()
        requests = metadata.num_spec_decodes
        state_indices = metadata.spec_state_indices_tensor[:requests]
        accepted = metadata.num_accepted_tokens[:requests]
        layout = metadata.spec_layout
        assert layout is not None  # the builder's, with num_spec_decodes
        mixed_qkv = causal_conv1d_update_spec(
            x.mixed_qkv,
            conv_state,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            self.activation,
            conv_state_indices=state_indices[:, 0],
            num_accepted_tokens=accepted,
            layout=layout,
        )
        qk, v = self._heads(mixed_qkv)
        q, k = qk.unsqueeze(1).unbind(0)
        o = spec_decode(
            self.decode_kernel,
            self.A_log,
            self.dt_bias,
            q,
            k,
            v.unsqueeze(0),
            x.a,
            x.b,
            ssm_state,
            state_indices,
            accepted,
            layout,
        )
        x.out.copy_(o.squeeze(0))

    def _prefill(self, x: Activations, metadata: StepCPUGDNAttentionMetadata) -> None:
        meta: Any = metadata.non_spec_prefill_fallback_meta
        conv_state, ssm_state = self._states()
        state_indices = metadata.prefill_state_indices
        has_initial_state = metadata.prefill_has_initial_state
        mixed_qkv = causal_conv1d_fn(
            x.mixed_qkv,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            activation=self.activation,
            conv_states=conv_state,
            cache_indices=state_indices,
            has_initial_state=has_initial_state,
            layout=meta.chunk.layout,
        )
        qk, v = self._heads(mixed_qkv)
        g, beta = fused_gdn_gating(self.A_log, x.a, x.b, self.dt_bias)
        initial_state = ssm_state.index_select(0, state_indices).float()
        if not meta.causal_conv1d.has_initial_state_cpu.all():
            initial_state.masked_fill_(~has_initial_state.view(-1, 1, 1, 1), 0.0)
        final_state = self.chunk_rule(
            qk, v, g.squeeze(0), beta.squeeze(0), initial_state, x.out, meta.chunk
        )
        ssm_state.index_copy_(0, state_indices, final_state.to(ssm_state.dtype))
