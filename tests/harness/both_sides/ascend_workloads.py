# SPDX-License-Identifier: Apache-2.0
"""As workloads.py, with vLLM-Ascend's builder on the one side and our layer over it on the other.

Needs the emulated NPU in place, or a real one.
"""

from __future__ import annotations

from inspect import signature
from types import SimpleNamespace

from vllm_ascend.ops import gdn_attn_builder
from vllm_ascend.ops.gdn_attn_builder import AscendGDNAttentionMetadataBuilder

from ascend_gdn.runner.versions import ascend_version

from . import workloads
from .workloads import VALUE_HEADS, Workload

_ONE_RANK = SimpleNamespace(parallel_config=SimpleNamespace(prefill_context_parallel_size=1))
OUR_LAYER = ascend_version().layer_cls(_ONE_RANK)
"""On the installed version."""
OUR_BUILDER = OUR_LAYER.get_attn_backend(OUR_LAYER).get_builder_cls()
TAKES_ACTUAL_REQUESTS = (
    "num_actual_reqs" in signature(AscendGDNAttentionMetadataBuilder.build).parameters
)
"""From 0.30.0rc2 on its runner says how many rows are requests."""


class AscendSide(workloads.Side):
    """vLLM-Ascend reads a little more of the configuration, once a build."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        for builder in self.builders:
            config = builder.vllm_config
            config.model_config.hf_text_config.linear_num_value_heads = VALUE_HEADS
            config.parallel_config.tensor_parallel_size = 1
            config.parallel_config.prefill_context_parallel_size = 1
        if TAKES_ACTUAL_REQUESTS:
            self.batch.extra["num_actual_reqs"] = len(workload.lengths)


class Theirs(AscendSide):
    """vLLM-Ascend's builders."""

    builder_cls = AscendGDNAttentionMetadataBuilder


class TheirsHostOnly(Theirs):
    """The same where a fused operator runs the prefill, from 0.30.0rc2 on: no table is sent."""

    builder_cls = vars(gdn_attn_builder).get("AscendGDNHostMetadataBuilder")


class Ours(AscendSide, workloads.Ours):
    """Our builders, in a step opened and closed as the model runner does."""

    builder_cls = OUR_BUILDER
