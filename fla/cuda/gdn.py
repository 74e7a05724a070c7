# SPDX-License-Identifier: Apache-2.0
"""The GDN layer on CUDA: vLLM's, but for the steps with prefills, which our builder planned.

State layouts are vLLM's: convolution [blocks, W - 1 + num_spec, conv_dim] (or its transpose),
recurrent [blocks, Hv, V, K].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.logger import init_logger
from vllm.model_executor.layers.fla.ops import fused_sigmoid_gating_delta_rule_update
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.model_executor.layers.mamba.mamba_utils import is_conv_state_dim_first
from vllm.model_executor.layers.mamba.ops.causal_conv1d import causal_conv1d_update

from ascend_gdn.attention.cuda import StepCudaGDNAttentionBackend
from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata
from ascend_gdn.attention.table_layout import CHUNK_SIZE
from ascend_gdn.fla.chunk import ChunkGatedDeltaRule
from ascend_gdn.fla.cuda.chunk import PagedChunkGatedDeltaRule
from ascend_gdn.fla.cuda.conv import CausalConv1dSplit
from ascend_gdn.fla.cuda.flashinfer import FlashInferChunkGatedDeltaRule
from ascend_gdn.fla.cuda.launch import KernelDoesNotFitError
from ascend_gdn.fla.cuda.vllm.chunk import VllmChunkGatedDeltaRule
from ascend_gdn.fla.cuda.warm_up import dummy_prefills
from ascend_gdn.fla.gdn import Activations, StepGatedDeltaNetMixin

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers


def channels_first(conv_states: torch.Tensor) -> torch.Tensor:
    """[blocks, conv_dim, W - 1 + num_spec]"""
    return conv_states if is_conv_state_dim_first() else conv_states.transpose(-1, -2)


class StepCudaGatedDeltaNetAttention(StepGatedDeltaNetMixin, QwenGatedDeltaNetAttention):
    """vLLM's layer, its prefill driven by the step's metadata."""

    _prefill_kernels_warmed_up: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # As the worker has settled it: vLLM's layer takes what it does not know for "triton".
        options = get_current_vllm_config().additional_config
        self.make_kernels(options["gdn_prefill_backend"])

    def make_kernels(self, backend: str) -> None:
        """Make the launchers of the prefill's kernels, once the layer's sizes are set.

        Args:
            backend: Whose the chunked rule is: "ascend_gdn", "triton" (vLLM's) or "flashinfer".
        """
        sizes = (
            self.num_k_heads // self.tp_size,
            self.num_v_heads // self.tp_size,
            self.head_k_dim,
            self.head_v_dim,
        )
        self.prefill_backend = backend
        self.chunk_rule: PagedChunkGatedDeltaRule | ChunkGatedDeltaRule
        if backend == "ascend_gdn":
            device = self.A_log.device
            processors = torch.cuda.get_device_properties(device).multi_processor_count
            self.chunk_rule = PagedChunkGatedDeltaRule(*sizes, processors)
        elif backend == "flashinfer":
            self.chunk_rule = FlashInferChunkGatedDeltaRule(self.head_k_dim, self.head_v_dim)
        else:
            self.chunk_rule = VllmChunkGatedDeltaRule(*sizes)
        self.causal_conv1d = CausalConv1dSplit(
            *sizes,
            width=self.conv1d.weight.shape[-1],
            activation=self.activation,
            has_bias=self.conv1d.bias is not None,
            in_chunks=backend == "ascend_gdn",
        )

    def get_attn_backend(self) -> type[StepCudaGDNAttentionBackend]:
        return StepCudaGDNAttentionBackend

    def _without_metadata(self, *arguments: torch.Tensor) -> None:  # vLLM's profile run
        if not self._prefill_kernels_warmed_up:
            self._warm_up(arguments[0])
            self._prefill_kernels_warmed_up = True

    def _is_upstreams(self, metadata: object) -> bool:
        return isinstance(metadata, StepGDNAttentionMetadata) and metadata.num_prefills == 0

    def _non_spec(self, x: Activations, metadata: StepGDNAttentionMetadata) -> None:
        decodes, meta = metadata.num_decode_tokens, metadata.non_spec_prefill_fallback_meta
        assert meta is not None  # the contract was checked
        if decodes > 0:
            decoding, x = x.split(decodes)
            states = metadata.non_spec_state_indices_tensor[:decodes]
            self._update(decoding, metadata.non_spec_query_start_loc[: decodes + 1], states)
        tables = meta.chunk, metadata.prefill_state_indices, metadata.prefill_has_initial_state
        self._prefill(x, self.kv_cache, metadata.num_initial_states, tables)

    def _prefill(
        self,
        x: Activations,
        states: Sequence[torch.Tensor],
        num_initial_states: int,
        tables: tuple[GDNChunkedPrefillMetadata, torch.Tensor, torch.Tensor],
    ) -> None:
        """``tables``: the step's, and its prefills' blocks and whether they have a state there."""
        conv1d, (conv_states, ssm_states) = self.conv1d, states
        chunk, blocks, has_initial_state = tables
        inputs = self.causal_conv1d(
            x,
            conv1d.weight,
            conv1d.bias,
            self.A_log,
            self.dt_bias,
            channels_first(conv_states),
            *tables,
        )
        if isinstance(self.chunk_rule, PagedChunkGatedDeltaRule):
            self.chunk_rule(inputs, ssm_states, x.out, *tables)
            return
        (q, k, v, g, beta), initial_state = inputs, None
        if num_initial_states > 0:
            initial_state = ssm_states.index_select(0, blocks)
            if num_initial_states < chunk.num_seqs:
                initial_state.masked_fill_(~has_initial_state.view(-1, 1, 1, 1), 0)
        final_state = self.chunk_rule((q, k), v, g, beta, initial_state, x.out, chunk)
        ssm_states.index_copy_(0, blocks, final_state.to(ssm_states.dtype))

    def _spec(self, x: Activations, metadata: StepGDNAttentionMetadata) -> None:
        """Requests that verify drafts."""
        self._update(
            x,
            metadata.spec_query_start_loc,
            metadata.spec_state_indices_tensor,
            metadata.num_accepted_tokens,
        )

    def _update(
        self,
        x: Activations,
        query_start_loc: torch.Tensor,
        state_indices: torch.Tensor,
        num_accepted_tokens: torch.Tensor | None = None,
    ) -> None:
        """Token by token: decodes, with a state each; or drafts, with one for each of theirs."""
        weight, first, drafts = self.conv1d.weight, state_indices, {}
        if num_accepted_tokens is not None:
            first = state_indices[:, 0]
            drafts = {
                "num_accepted_tokens": num_accepted_tokens,
                "query_start_loc": query_start_loc,
                "max_query_len": state_indices.shape[-1],
            }
        mixed_qkv = causal_conv1d_update(
            x.mixed_qkv,
            channels_first(self.kv_cache[0]),
            weight.view(weight.shape[0], weight.shape[-1]),
            self.conv1d.bias,
            self.activation,
            conv_state_indices=first,
            **drafts,
        )
        q, k, v = self.rearrange_mixed_qkv(mixed_qkv)
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
        if not isinstance(self.chunk_rule, PagedChunkGatedDeltaRule):
            self._run_dummies(mixed_qkv, 1)
            return
        try:
            for seqs in (1, self.chunk_rule.processors):  # narrow programs, and wide ones
                self._run_dummies(mixed_qkv, seqs)
        except KernelDoesNotFitError as error:
            logger.warning_once(
                "ascend-gdn: got a card that %s does not fit (%s): prefills run on vLLM's kernels, "
                "as with --gdn-prefill-backend triton.", error.kernel, str(error.cause),
            )  # fmt: skip
            self.make_kernels("triton")
            self._run_dummies(mixed_qkv, 1)

    def _run_dummies(self, mixed_qkv: torch.Tensor, seqs: int) -> None:
        """Run the prefill's kernels over as many sequences, with states and without."""
        tables, tokens = dummy_prefills(seqs, mixed_qkv.device), seqs * CHUNK_SIZE
        heads = self.num_v_heads // self.tp_size
        x = mixed_qkv.new_zeros(tokens, mixed_qkv.shape[1])
        gates = x.new_zeros(tokens, heads)
        out = x.new_empty(tokens, heads, self.head_v_dim)
        states = [
            x.new_zeros(1, *shape, dtype=dtype)
            for shape, dtype in zip(self.get_state_shape(), self.get_state_dtype(), strict=True)
        ]
        for num_initial_states in (seqs, 0):
            self._prefill(Activations(x, gates, gates, out), states, num_initial_states, tables)
