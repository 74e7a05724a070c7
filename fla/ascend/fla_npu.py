# SPDX-License-Identifier: Apache-2.0
"""The GDN layer by the operators that vLLM-Ascend 0.30.0rc2 runs: ``fla_npu``'s, and its own.

``fla_npu`` is flashserve/flash-linear-attention-npu. A fused operator runs the prefill where there
is one (``fused_chunk.py``), as in vllm_ascend/ops/gdn.py; else the stages do.
"""

from __future__ import annotations

from typing import Any

import torch
from fla_npu.ops.ascendc import causal_conv1d_fn, causal_conv1d_update, recurrent_gated_delta_rule
from vllm.v1.attention.backends.utils import NULL_BLOCK_ID, PAD_SLOT_ID
from vllm_ascend.attention.utils import (
    maybe_save_kv_layer_to_connector,
    wait_for_kv_layer_from_connector,
)
from vllm_ascend.distributed.kv_transfer.kv_pool.ascend_store.attention_fence import (
    record_attention_compute_start,
)
from vllm_ascend.ops.gdn import _get_packed_conv_weights

from ascend_gdn.attention.ascend import StepAscendGDNAttentionMetadata
from ascend_gdn.attention.ascend_padded import PaddedAscendGDNAttentionBackend
from ascend_gdn.fla.ascend.chunk import AscendChunkGatedDeltaRule, ChunkOperators
from ascend_gdn.fla.ascend.fused_chunk import fused_chunk_rule
from ascend_gdn.fla.ascend.gdn import StepAscendGatedDeltaNetAttention
from ascend_gdn.fla.chunk import ChunkGatedDeltaRule
from ascend_gdn.fla.gdn import Activations


def chunk_operators() -> ChunkOperators:
    operators = torch.ops._C_ascend
    return ChunkOperators(
        operators.chunk_gated_delta_rule_fwd_h_vllm, operators.chunk_fwd_o_vllm, decay_by_head=True
    )


class FlaNpuLayer(StepAscendGatedDeltaNetAttention):
    """Ours, by them. A row whose block is the null block is left out by the convolution."""

    _recurrence = staticmethod(recurrent_gated_delta_rule)

    def get_attn_backend(self) -> type[PaddedAscendGDNAttentionBackend]:
        return PaddedAscendGDNAttentionBackend

    def make_chunk_rule(self, scale: float) -> ChunkGatedDeltaRule:
        fused = fused_chunk_rule(scale)
        return AscendChunkGatedDeltaRule(scale, chunk_operators()) if fused is None else fused

    def _walk(self, x: Activations, metadata: Any) -> None:
        # As in vLLM-Ascend's layer: a KV connector brings and takes states layer by layer.
        wait_for_kv_layer_from_connector(self.prefix)
        record_attention_compute_start()
        super()._walk(x, metadata)
        maybe_save_kv_layer_to_connector("", [])

    def _conv_prefill(
        self,
        x: torch.Tensor,
        query_start_loc: torch.Tensor,
        cache_indices: torch.Tensor,
        has_initial_state: torch.Tensor | None,
    ) -> torch.Tensor:
        out: torch.Tensor = causal_conv1d_fn(
            x,
            _get_packed_conv_weights(self),
            self.conv1d.bias,
            conv_states=self.kv_cache[0],
            query_start_loc=query_start_loc,
            cache_indices=cache_indices,
            has_initial_state=has_initial_state,
            activation="silu" if self.activation else None,
            pad_slot_id=PAD_SLOT_ID,
            null_block_id=NULL_BLOCK_ID,
        )
        return out

    def _conv_update(
        self, x: torch.Tensor, metadata: StepAscendGDNAttentionMetadata
    ) -> torch.Tensor:
        out: torch.Tensor = causal_conv1d_update(
            x,
            self.kv_cache[0],
            _get_packed_conv_weights(self),
            bias=self.conv1d.bias,
            activation="silu" if self.activation else None,
            conv_state_indices=metadata.spec_first_blocks,
            num_accepted_tokens=metadata.num_accepted_tokens,
            query_start_loc=metadata.spec_query_start_loc,
            max_query_len=self.num_spec + 1,
            null_block_id=NULL_BLOCK_ID,
            out=torch.empty_like(x),
        )
        return out
