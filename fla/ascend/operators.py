# SPDX-License-Identifier: Apache-2.0
"""The GDN layer by the operators of vLLM-Ascend 0.23.0's own extension, ``torch.ops._C_ascend``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from vllm.v1.attention.backends.utils import PAD_SLOT_ID

from ascend_gdn.attention.ascend import StepAscendGDNAttentionMetadata
from ascend_gdn.fla.ascend.chunk import AscendChunkGatedDeltaRule, ChunkOperators
from ascend_gdn.fla.ascend.gdn import StepAscendGatedDeltaNetAttention
from ascend_gdn.fla.chunk import ChunkGatedDeltaRule

_PREFILL, _UPDATE = 0, 1
"""``run_mode`` of ``npu_causal_conv1d_custom``: whole sequences, or a few tokens of each."""


class OwnOperatorsLayer(StepAscendGatedDeltaNetAttention):
    """Ours, by them; each is looked up when first called, when the extension is loaded."""

    _conv_view: tuple[torch.Tensor, torch.Tensor] | None = None
    """The convolution's weights as loaded, and as its operator takes them."""

    @cached_property
    def _recurrence(self) -> Callable[..., torch.Tensor]:  # type: ignore[override]
        operator: Callable[..., torch.Tensor]
        operator = torch.ops._C_ascend.npu_recurrent_gated_delta_rule
        return operator

    @cached_property
    def _chunk_operators(self) -> ChunkOperators:
        operators = torch.ops._C_ascend
        return ChunkOperators(
            operators.chunk_gated_delta_rule_fwd_h, operators.chunk_fwd_o, decay_by_head=False
        )

    def make_chunk_rule(self, scale: float) -> ChunkGatedDeltaRule:
        return AscendChunkGatedDeltaRule(scale, self._chunk_operators)

    def _conv_prefill(
        self,
        x: torch.Tensor,
        query_start_loc: torch.Tensor,
        cache_indices: torch.Tensor,
        has_initial_state: torch.Tensor | None,
    ) -> torch.Tensor:
        return self._conv(x, query_start_loc, cache_indices, _PREFILL, has_initial_state)

    def _conv_update(
        self, x: torch.Tensor, metadata: StepAscendGDNAttentionMetadata
    ) -> torch.Tensor:
        return self._conv(
            x,
            metadata.spec_query_start_loc,
            metadata.spec_state_indices_tensor,
            _UPDATE,
            num_accepted_tokens=metadata.num_accepted_tokens,
        )

    def _conv(
        self,
        x: torch.Tensor,
        query_start_loc: torch.Tensor | None,
        cache_indices: torch.Tensor | None,
        run_mode: int,
        initial_state_mode: torch.Tensor | None = None,
        num_accepted_tokens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        conv1d, out = self.conv1d, torch.empty_like(x)
        torch.ops._C_ascend.npu_causal_conv1d_custom(
            out,
            x,
            self._conv_weights(conv1d.weight),
            conv_state=self.kv_cache[0],
            bias_opt=conv1d.bias,
            query_start_loc_opt=query_start_loc,
            cache_indices_opt=cache_indices,
            initial_state_mode_opt=initial_state_mode,
            num_accepted_tokens_opt=num_accepted_tokens,
            activation_mode=1 if self.activation else 0,
            pad_slot_id=PAD_SLOT_ID,
            run_mode=run_mode,
        )
        return out

    def _conv_weights(self, weight: torch.Tensor) -> torch.Tensor:
        """[W, conv_dim], a view of the convolution's weights, made anew if they are replaced."""
        if self._conv_view is None or self._conv_view[0] is not weight:
            self._conv_view = weight, weight.squeeze(1).t()
        return self._conv_view[1]
