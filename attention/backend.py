# SPDX-License-Identifier: Apache-2.0
"""The attention backend that a GDN layer names so that vLLM makes our builder for it."""

from __future__ import annotations

from vllm.v1.attention.backends.gdn_attn import GDNAttentionBackend

from ascend_gdn.attention.builder import StepGDNAttentionMetadataBuilder


class StepGDNAttentionBackend(GDNAttentionBackend):
    """vLLM's GDN backend with step-scoped prefill metadata."""

    @staticmethod
    def get_builder_cls() -> type[StepGDNAttentionMetadataBuilder]:
        return StepGDNAttentionMetadataBuilder
