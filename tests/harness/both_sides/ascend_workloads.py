# SPDX-License-Identifier: Apache-2.0
"""As workloads.py, with vLLM-Ascend's builder on the one side and our layer over it on the other.

Needs the emulated NPU in place, or a real one.
"""

from __future__ import annotations

from vllm_ascend.ops.gdn_attn_builder import AscendGDNAttentionMetadataBuilder

from ascend_gdn.attention.ascend import StepAscendGDNAttentionMetadataBuilder

from . import workloads
from .workloads import VALUE_HEADS, Workload


class AscendSide(workloads.Side):
    """vLLM-Ascend reads a little more of the configuration, once a build."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        for builder in self.builders:
            config = builder.vllm_config
            config.model_config.hf_text_config.linear_num_value_heads = VALUE_HEADS
            config.parallel_config.tensor_parallel_size = 1
            config.parallel_config.prefill_context_parallel_size = 1


class Theirs(AscendSide):
    """vLLM-Ascend's builders."""

    builder_cls = AscendGDNAttentionMetadataBuilder


class Ours(AscendSide, workloads.Ours):
    """Our builders, in a step opened and closed as the model runner does."""

    builder_cls = StepAscendGDNAttentionMetadataBuilder
