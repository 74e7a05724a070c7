# SPDX-License-Identifier: Apache-2.0
"""The CPU with vLLM 0.30.0."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from ascend_gdn.fla.cpu.gdn import StepCPUGatedDeltaNetAttention
from ascend_gdn.runner.model_runner import StepModelRunnerMixin
from ascend_gdn.runner.upstream.cpu_align import AlignedStatesMixin
from ascend_gdn.runner.upstream.cpu_draft_kernels import CPUDraftKernelsMixin
from ascend_gdn.runner.upstream.cpu_random_drafts import NoRandomDraftsMixin
from ascend_gdn.runner.upstream.padded_prompts import PaddedPromptsMixin
from ascend_gdn.runner.versions.host_accepted_counts import HostAcceptedCountsMixin

REPLACED: Mapping[type, type] = {}


class StepCPUModelRunner(
    AlignedStatesMixin,
    NoRandomDraftsMixin,
    CPUDraftKernelsMixin,
    StepModelRunnerMixin,
    PaddedPromptsMixin,
    HostAcceptedCountsMixin,
    CPUModelRunner,
):
    """vLLM's CPU model runner, opening a GDN step around each metadata build."""

    def copies_are_missing(self) -> bool:
        return super().copies_are_missing() and self.speculative_config is not None


class StepCPULayer(StepCPUGatedDeltaNetAttention):
    """The GDN layer, returning its output."""

    def _output_projection(self, core_attn_out: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():  # fuses the norm itself
            return super()._output_projection(core_attn_out, z)
        return self.normed_projection(core_attn_out, z)
