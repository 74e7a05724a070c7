# SPDX-License-Identifier: Apache-2.0
"""The GDN layer on Ascend: vLLM-Ascend's, but for steps that were planned by our builder.

State layouts are vLLM-Ascend's: convolution [blocks, W - 1 + num_spec, conv_dim], recurrent
[blocks, Hv, V, K].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadata
from vllm_ascend.device.device_op import DeviceOperator
from vllm_ascend.ops.gdn import AscendGatedDeltaNetAttention
from vllm_ascend.ops.triton.fla.l2norm import l2norm_fwd
from vllm_ascend.ops.triton.fla.utils import clear_ssm_states

from ascend_gdn.attention.ascend import (
    StepAscendGDNAttentionBackend,
    StepAscendGDNAttentionMetadata,
)
from ascend_gdn.fla.chunk import ChunkGatedDeltaRule
from ascend_gdn.fla.gdn import Activations, StepGatedDeltaNetMixin


class StepAscendGatedDeltaNetAttention(
    StepGatedDeltaNetMixin, AscendGatedDeltaNetAttention, QwenGatedDeltaNetAttention
):
    """vLLM-Ascend's layer, its prefill driven by the step's metadata.

    vLLM-Ascend assigns the methods of its class to vLLM's (patch/worker/patch_qwen3_5.py, 0.23.0,
    0.30.0rc2); named as a base here, they are found first with or without that.

    The operators for convolution, recurrence and chunks are those of a subclass, a version's.
    """

    _recurrence: Callable[..., torch.Tensor]
    """The operator that advances states token by token."""

    @cached_property
    def _chunk_rule(self) -> ChunkGatedDeltaRule:
        return self.make_chunk_rule(self.head_k_dim**-0.5)

    def make_chunk_rule(self, scale: float) -> ChunkGatedDeltaRule:
        """For layers that scale their queries so; states are [N, Hv, K, V]."""
        raise NotImplementedError

    def _conv_prefill(
        self,
        x: torch.Tensor,
        query_start_loc: torch.Tensor,
        cache_indices: torch.Tensor,
        has_initial_state: torch.Tensor | None,
    ) -> torch.Tensor:
        """Convolve ``x`` [tokens, conv_dim], whole sequences, and advance their states."""
        raise NotImplementedError

    def _conv_update(
        self, x: torch.Tensor, metadata: StepAscendGDNAttentionMetadata
    ) -> torch.Tensor:
        """Convolve the tokens ``x`` of requests that verify drafts, and keep a state for each."""
        raise NotImplementedError

    def get_attn_backend(self) -> type[StepAscendGDNAttentionBackend]:
        return StepAscendGDNAttentionBackend

    def _is_upstreams(self, metadata: object) -> bool:
        if isinstance(metadata, StepAscendGDNAttentionMetadata):
            return False
        return isinstance(metadata, GDNAttentionMetadata) and metadata.num_prefills == 0

    def _heads(self, mixed_qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return qk [2, tokens, Hk, K], every vector of length 1, and v [1, tokens, Hv, V]."""
        key_dim, value_dim = self.key_dim // self.tp_size, self.value_dim // self.tp_size
        qk, v = mixed_qkv.split_with_sizes([2 * key_dim, value_dim], -1)
        tokens = mixed_qkv.shape[0]
        qk = qk.view(tokens, 2, -1, self.head_k_dim).transpose(0, 1)
        return l2norm_fwd(qk), v.contiguous().view(1, tokens, -1, self.head_v_dim)

    def _recurrent(
        self,
        qk: torch.Tensor,
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        actual_seq_lengths: torch.Tensor,
        state_indices: torch.Tensor,
        num_accepted_tokens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return [tokens, Hv, V], and advance the recurrent states token by token."""
        query, key = qk.unbind(0)
        return self._recurrence(
            query=query,
            key=key,
            value=v.squeeze(0),
            g=g.squeeze(0),
            beta=beta.squeeze(0),
            state=self.kv_cache[1],
            scale=self.head_k_dim**-0.5,
            actual_seq_lengths=actual_seq_lengths,
            ssm_state_indices=state_indices,
            num_accepted_tokens=num_accepted_tokens,
        )

    def _gated(self, x: Activations) -> Activations:
        g, beta = DeviceOperator.fused_gdn_gating(self.A_log, x.a, x.b, self.dt_bias)
        return Activations(x.mixed_qkv, beta, g, x.out)

    def _spec(self, x: Activations, metadata: StepAscendGDNAttentionMetadata) -> None:
        if metadata.spec_moved_states is not None:
            source, target = metadata.spec_moved_states
            ssm_state = self.kv_cache[1]
            ssm_state[target] = ssm_state[source]
        mixed_qkv = self._conv_update(x.mixed_qkv, metadata)
        qk, v = self._heads(mixed_qkv)
        o = self._recurrent(
            qk,
            v,
            x.a,
            x.b,
            metadata.spec_actual_seq_lengths,
            metadata.spec_token_state_indices,
            metadata.spec_start_tokens,
        )
        x.out.copy_(o)

    def _non_spec(self, x: Activations, metadata: StepAscendGDNAttentionMetadata) -> None:
        mixed_qkv = self._conv_prefill(
            x.mixed_qkv,
            metadata.non_spec_query_start_loc,
            metadata.non_spec_state_indices_tensor,
            metadata.has_initial_state,
        )
        qk, v = self._heads(mixed_qkv)
        beta, g, out = x[1:]
        decodes, prefills = metadata.num_decode_tokens, metadata.num_prefill_tokens
        if decodes > 0:
            sizes = [decodes, prefills]
            (own_qk, qk), (own_v, v), (own_g, g), (own_beta, beta) = (
                t.split_with_sizes(sizes, 1) for t in (qk, v, g, beta)
            )
            own_out, out = out.split_with_sizes(sizes)
            o = self._recurrent(
                own_qk,
                own_v,
                own_g,
                own_beta,
                metadata.decode_actual_seq_lengths,
                metadata.decode_state_indices,
            )
            own_out.copy_(o)
        if prefills > 0:
            self._prefill(qk, v, g, beta, out, metadata)

    def _prefill(
        self,
        qk: torch.Tensor,
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        out: torch.Tensor,
        metadata: StepAscendGDNAttentionMetadata,
    ) -> None:
        meta: Any = metadata.non_spec_prefill_fallback_meta
        ssm_state, prefills = self.kv_cache[1], metadata.num_prefills
        block = None
        if prefills == 1:  # its state is a view then: 3 us less on either way
            block = int(meta.causal_conv1d.cache_indices_cpu[0])
        if metadata.num_initial_states == 0:  # a gather, a copy and a kernel less: 5 us
            _, heads, v_dim, k_dim = ssm_state.shape
            states = ssm_state.new_zeros(prefills, heads, k_dim, v_dim)
        else:
            if block is None:
                states = ssm_state.index_select(0, metadata.prefill_state_indices)
            else:
                states = ssm_state[block : block + 1]
            states = states.mT.contiguous()
            if metadata.num_initial_states < prefills:
                clear_ssm_states(states, metadata.prefill_has_initial_state)
        final_state = self._chunk_rule(qk, v, g, beta, states, out, meta.chunk)
        if block is None:
            ssm_state.index_put_((metadata.prefill_state_indices,), final_state.mT)
        else:
            ssm_state[block : block + 1].copy_(final_state.mT)
