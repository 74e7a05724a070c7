# SPDX-License-Identifier: Apache-2.0
"""CUDA: the GDN backend, whose builder needs no more than the step's."""

from __future__ import annotations

from vllm.v1.attention.backends.gdn_attn import GDNAttentionBackend

from ascend_gdn.attention.builder import StepGDNAttentionMetadataBuilder


class StepCudaGDNAttentionBackend(GDNAttentionBackend):
    """vLLM's GDN backend with the step's builder."""

    @staticmethod
    def get_builder_cls() -> type[StepGDNAttentionMetadataBuilder]:
        return StepGDNAttentionMetadataBuilder
