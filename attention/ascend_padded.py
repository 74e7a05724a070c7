# SPDX-License-Identifier: Apache-2.0
"""Ascend, from vLLM-Ascend 0.30.0rc2 on: a batch comes padded, with how many requests it has.

Its runner passes ``num_actual_reqs`` to every GDN builder (worker/model_runner_v1.py): the rows
behind those belong to no request, and may have tokens, where attention's operator wants as many for
each row of a graph.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadata
from vllm_ascend.ops.gdn_attn_builder import AscendGDNAttentionMetadataBuilder

from ascend_gdn.attention.ascend import (
    StepAscendGDNAttentionBackend,
    StepAscendGDNAttentionMetadataBuilder,
)
from ascend_gdn.attention.batch_split import BatchSplit
from ascend_gdn.attention.step import GDNStep


class PaddedAscendGDNAttentionMetadataBuilder(StepAscendGDNAttentionMetadataBuilder):
    """One builder for each KV cache group of GDN layers."""

    _num_actual_reqs: int | None = None
    """Of the step, as the runner says."""

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        num_accepted_tokens: torch.Tensor | None = None,
        num_decode_draft_tokens_cpu: torch.Tensor | None = None,
        fast_build: bool = False,
        num_actual_reqs: int | None = None,
    ) -> GDNAttentionMetadata:
        """As the step's builder; ``num_actual_reqs`` are the rows that count, by default all."""
        self._num_actual_reqs = num_actual_reqs
        return super().build(
            common_prefix_len,
            common_attn_metadata,
            num_accepted_tokens,
            num_decode_draft_tokens_cpu,
            fast_build,
        )

    def _split_batch(
        self, step: GDNStep, common: CommonAttentionMetadata, draft_tokens: torch.Tensor | None
    ) -> BatchSplit:
        actual = self._num_actual_reqs
        if actual is not None and actual < common.num_reqs:
            common = common.unpadded(common.num_actual_tokens, actual)
            draft_tokens = None if draft_tokens is None else draft_tokens[:actual]
        return super()._split_batch(step, common, draft_tokens)

    def _build_upstreams(
        self,
        common: CommonAttentionMetadata,
        num_accepted_tokens: torch.Tensor | None,
        draft_tokens: torch.Tensor | None,
    ) -> GDNAttentionMetadata:
        return AscendGDNAttentionMetadataBuilder.build(
            self,
            0,
            common,
            num_accepted_tokens,
            draft_tokens,
            num_actual_reqs=self._num_actual_reqs,
        )

    def _add_groups(self, groups: list[Any], step: GDNStep, split: BatchSplit) -> None:
        super()._add_groups(groups, step, split)
        if split.spec is not None:
            for metadata in groups:
                table = metadata.spec_state_indices_tensor
                metadata.spec_first_blocks = table[:, 0].contiguous()


class PaddedAscendGDNAttentionBackend(StepAscendGDNAttentionBackend):
    """vLLM-Ascend's GDN backend with that builder."""

    @staticmethod
    def get_builder_cls() -> type[PaddedAscendGDNAttentionMetadataBuilder]:
        return PaddedAscendGDNAttentionMetadataBuilder
