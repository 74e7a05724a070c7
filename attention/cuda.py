# SPDX-License-Identifier: Apache-2.0
"""CUDA: the GDN backend and builder, with what vLLM's Triton convolution takes."""

from __future__ import annotations

from vllm.v1.attention.backends.gdn_attn import GDNAttentionBackend

from ascend_gdn.attention.builder import StepGDNAttentionMetadataBuilder
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata
from ascend_gdn.attention.step_plan import StepPlan

CONV_BLOCK = 8
"""Tokens that a program of vLLM's convolution takes: BLOCK_M of ``causal_conv1d_fn`` in
model_executor/layers/mamba/ops/causal_conv1d.py (0.23.0)."""


class StepCudaGDNAttentionMetadataBuilder(StepGDNAttentionMetadataBuilder):
    """One builder for each KV cache group of GDN layers."""

    conv_block = CONV_BLOCK

    def _shared_metadata(self, plan: StepPlan, num_actual_tokens: int) -> StepGDNAttentionMetadata:
        metadata = super()._shared_metadata(plan, num_actual_tokens)
        conv = plan.conv
        if conv is not None:
            metadata.batch_ptr = conv.batch_ptr
            metadata.token_chunk_offset_ptr = conv.token_chunk_offset_ptr
        return metadata


class StepCudaGDNAttentionBackend(GDNAttentionBackend):
    """vLLM's GDN backend with the step's builder."""

    @staticmethod
    def get_builder_cls() -> type[StepCudaGDNAttentionMetadataBuilder]:
        return StepCudaGDNAttentionMetadataBuilder
