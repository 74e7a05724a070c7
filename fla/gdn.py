# SPDX-License-Identifier: Apache-2.0
"""The GDN layer: takes the step's metadata out once and passes it down by name."""

from __future__ import annotations

from typing import Any

import torch
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.model_executor.layers.mamba.mamba_utils import is_conv_state_dim_first

from ascend_gdn.attention.backend import StepGDNAttentionBackend
from ascend_gdn.attention.metadata import GDNPrefillFallbackMeta, require_prefill_meta
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata, require_step_metadata
from ascend_gdn.fla.causal_conv1d import (
    causal_conv1d_fn,
    causal_conv1d_update,
    causal_conv1d_update_spec,
)
from ascend_gdn.fla.chunk import chunk_gated_delta_rule
from ascend_gdn.fla.fused_sigmoid_gating import select_decode_kernel, spec_decode
from ascend_gdn.fla.gating import fused_gdn_gating

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


class StepQwenGatedDeltaNetAttention(QwenGatedDeltaNetAttention):
    """vLLM's layer on CPU, its prefill driven by the step's metadata.

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
        self.decode_kernel = select_decode_kernel(
            activations=self.model_config.dtype,
            state=self.get_state_dtype()[1],
            A_log=self.A_log.dtype,
            dt_bias=self.dt_bias.dtype,
        )

    def get_attn_backend(self) -> type[StepGDNAttentionBackend]:
        return StepGDNAttentionBackend

    def _forward_core(
        self,
        mixed_qkv: torch.Tensor,
        b: torch.Tensor,
        a: torch.Tensor,
        core_attn_out: torch.Tensor,
    ) -> None:
        """Convolution and delta rule of one step.

        Args:
            mixed_qkv: [tokens, conv_dim] packed q, k, v of the rank's heads.
            b: [tokens, value heads], before the sigmoid.
            a: [tokens, value heads], decay input.
            core_attn_out: [tokens, value heads, V], written; rows past the step's tokens are not.
        """
        attn_metadata = get_forward_context().attn_metadata
        if attn_metadata is None:  # vLLM's profile run, or a data-parallel rank without requests
            return
        metadata = require_step_metadata(attn_metadata[self.prefix], layer=self.prefix)
        if metadata.num_spec_decodes == 0:
            self._non_spec(mixed_qkv, b, a, core_attn_out, metadata)
            return
        if metadata.num_prefills == 0:
            part = slice(0, metadata.num_spec_decode_tokens)
            self._spec(mixed_qkv[part], b[part], a[part], core_attn_out[part], metadata)
            return
        for tokens, forward in (
            (metadata.spec_token_indx, self._spec),
            (metadata.non_spec_token_indx, self._non_spec),
        ):
            out = core_attn_out.new_empty(len(tokens), *core_attn_out.shape[1:])
            x, own_b, own_a = (t.index_select(0, tokens) for t in (mixed_qkv, b, a))
            forward(x, own_b, own_a, out, metadata)
            core_attn_out.index_copy_(0, tokens.long(), out)

    def _non_spec(
        self,
        mixed_qkv: torch.Tensor,
        b: torch.Tensor,
        a: torch.Tensor,
        out: torch.Tensor,
        metadata: StepGDNAttentionMetadata,
    ) -> None:
        """Decodes first, then prefills."""
        decodes, prefills = metadata.num_decode_tokens, metadata.num_prefill_tokens
        if decodes > 0:
            part = slice(0, decodes)
            self._decode(mixed_qkv[part], b[part], a[part], out[part], metadata)
        if metadata.num_prefills > 0:
            part = slice(decodes, decodes + prefills)
            meta = require_prefill_meta(
                metadata.non_spec_prefill_fallback_meta,
                layer=self.prefix,
                num_tokens=prefills,
                num_seqs=metadata.num_prefills,
            )
            self._prefill(mixed_qkv[part], b[part], a[part], out[part], metadata, meta)

    def _output_projection(
        self, core_attn_out: torch.Tensor, z: torch.Tensor, output: torch.Tensor, num_tokens: int
    ) -> None:
        """vLLM's own, the norm some rows at a time.

        Args:
            core_attn_out: [tokens, value heads, V]; overwritten.
            z: [tokens, value heads, V], the gate.
            output: [>= num_tokens, hidden], written.
            num_tokens: Rows of ``output`` to write.
        """
        if torch.compiler.is_compiling():  # fuses the norm itself
            super()._output_projection(core_attn_out, z, output, num_tokens)
            return
        rows = core_attn_out.view(-1, self.head_v_dim).split(_NORM_ROWS)
        for part, gate in zip(rows, z.reshape(-1, self.head_v_dim).split(_NORM_ROWS), strict=True):
            part.copy_(self.norm(part, gate))
        output[:num_tokens], _ = self.out_proj(core_attn_out.flatten(-2))

    def _states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The cache: conv state [blocks, conv_dim, W - 1], recurrent state [blocks, Hv, K, V]."""
        conv_state, ssm_state = self.kv_cache
        if not is_conv_state_dim_first():
            conv_state = conv_state.transpose(-1, -2)
        blocks, heads, v_dim, k_dim = ssm_state.shape
        return conv_state, ssm_state.view(blocks, heads, k_dim, v_dim)

    def _heads(self, mixed_qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Views of q, k [1, tokens, Hk, K] and v [1, tokens, Hv, V]."""
        key_dim, value_dim = self.key_dim // self.tp_size, self.value_dim // self.tp_size
        q, k, v = mixed_qkv.unsqueeze(0).split([key_dim, key_dim, value_dim], dim=-1)
        return (
            q.unflatten(-1, (-1, self.head_k_dim)),
            k.unflatten(-1, (-1, self.head_k_dim)),
            v.unflatten(-1, (-1, self.head_v_dim)),
        )

    def _decode(
        self,
        mixed_qkv: torch.Tensor,
        b: torch.Tensor,
        a: torch.Tensor,
        out: torch.Tensor,
        metadata: StepGDNAttentionMetadata,
    ) -> None:
        conv_state, ssm_state = self._states()
        decodes = metadata.num_decodes
        state_indices = metadata.non_spec_state_indices_tensor[:decodes]
        mixed_qkv = causal_conv1d_update(
            mixed_qkv,
            conv_state,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            self.activation,
            conv_state_indices=state_indices,
        )
        q, k, v = self._heads(mixed_qkv)
        o = self.decode_kernel(
            self.A_log,
            self.dt_bias,
            q,
            k,
            v,
            a,
            b,
            ssm_state,
            state_indices,
            metadata.non_spec_query_start_loc[: decodes + 1],
        )
        out.copy_(o.squeeze(0))

    def _spec(
        self,
        mixed_qkv: torch.Tensor,
        b: torch.Tensor,
        a: torch.Tensor,
        out: torch.Tensor,
        metadata: StepGDNAttentionMetadata,
    ) -> None:
        conv_state, ssm_state = self._states()
        requests = metadata.num_spec_decodes
        state_indices = metadata.spec_state_indices_tensor[:requests]
        accepted = metadata.num_accepted_tokens[:requests]
        layout = metadata.spec_layout
        mixed_qkv = causal_conv1d_update_spec(
            mixed_qkv,
            conv_state,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            self.activation,
            conv_state_indices=state_indices[:, 0],
            num_accepted_tokens=accepted,
            layout=layout,
        )
        q, k, v = self._heads(mixed_qkv)
        o = spec_decode(
            self.decode_kernel,
            self.A_log,
            self.dt_bias,
            q,
            k,
            v,
            a,
            b,
            ssm_state,
            state_indices,
            accepted,
            layout,
        )
        out.copy_(o.squeeze(0))

    def _prefill(
        self,
        mixed_qkv: torch.Tensor,
        b: torch.Tensor,
        a: torch.Tensor,
        out: torch.Tensor,
        metadata: StepGDNAttentionMetadata,
        meta: GDNPrefillFallbackMeta,
    ) -> None:
        conv_state, ssm_state = self._states()
        state_indices = metadata.prefill_state_indices
        has_initial_state = metadata.prefill_has_initial_state
        mixed_qkv = causal_conv1d_fn(
            mixed_qkv,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            activation=self.activation,
            conv_states=conv_state,
            cache_indices=state_indices,
            has_initial_state=has_initial_state,
            layout=meta.chunk.layout,
        )
        q, k, v = self._heads(mixed_qkv)
        g, beta = fused_gdn_gating(self.A_log, a, b, self.dt_bias)
        initial_state = ssm_state.index_select(0, state_indices).float()
        initial_state.masked_fill_(~has_initial_state.view(-1, 1, 1, 1), 0.0)
        o, final_state = chunk_gated_delta_rule(
            q,
            k,
            v,
            g,
            beta,
            scale=self.head_k_dim**-0.5,
            initial_state=initial_state,
            meta=meta,
            layer=self.prefix,
            use_qk_l2norm_in_kernel=True,
        )
        ssm_state.index_copy_(0, state_indices.long(), final_state.to(ssm_state.dtype))
        out.copy_(o.squeeze(0))
