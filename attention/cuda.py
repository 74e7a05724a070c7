# SPDX-License-Identifier: Apache-2.0
"""CUDA: the GDN backend and builder, with what vLLM's Triton convolution takes."""

from __future__ import annotations

from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.gdn_attn import GDNAttentionBackend

from ascend_gdn.attention.batch_split import BatchSplit
from ascend_gdn.attention.builder import StepGDNAttentionMetadataBuilder
from ascend_gdn.attention.step import GDNStep
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata

CONV_BLOCK = 8
"""Tokens that a program of vLLM's convolution takes: BLOCK_M of ``causal_conv1d_fn`` in
model_executor/layers/mamba/ops/causal_conv1d.py (0.23.0)."""


class StepCudaGDNAttentionMetadataBuilder(StepGDNAttentionMetadataBuilder):
    """One builder for each KV cache group of GDN layers."""

    conv_block = CONV_BLOCK

    def _shared_metadata(
        self, step: GDNStep, split: BatchSplit, common: CommonAttentionMetadata
    ) -> StepGDNAttentionMetadata:
        metadata = super()._shared_metadata(step, split, common)
        if step.conv_rows:
            tables, rows = step.slot.device_tables, step.conv_rows
            metadata.batch_ptr = tables["batch_ptr"][:rows]
            metadata.token_chunk_offset_ptr = tables["token_chunk_offset_ptr"][:rows]
        return metadata


class StepCudaGDNAttentionBackend(GDNAttentionBackend):
    """vLLM's GDN backend with the step's builder."""

    @staticmethod
    def get_builder_cls() -> type[StepCudaGDNAttentionMetadataBuilder]:
        return StepCudaGDNAttentionMetadataBuilder
