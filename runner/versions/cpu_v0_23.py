# SPDX-License-Identifier: Apache-2.0
"""The CPU with vLLM 0.23.0."""

from __future__ import annotations

import torch
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from ascend_gdn.fla.cpu.gdn import StepCPUGatedDeltaNetAttention
from ascend_gdn.runner.model_runner import StepModelRunnerMixin
from ascend_gdn.runner.upstream.cpu_align import AlignedStatesMixin
from ascend_gdn.runner.upstream.cpu_random_drafts import NoRandomDraftsMixin
from ascend_gdn.runner.upstream.cpu_seeded_sampler import SeededCPUSampler
from ascend_gdn.runner.upstream.moe_activation import ContextFreeSiluAndMul

REPLACED = {SiluAndMul: ContextFreeSiluAndMul}


class StepCPUModelRunner(
    AlignedStatesMixin, NoRandomDraftsMixin, StepModelRunnerMixin, CPUModelRunner
):
    """vLLM's CPU model runner, opening a GDN step around each metadata build."""

    sampler_cls = SeededCPUSampler


class StepCPULayer(StepCPUGatedDeltaNetAttention):
    """The GDN layer, given the tensor that it writes its output to."""

    def _output_projection(
        self, core_attn_out: torch.Tensor, z: torch.Tensor, output: torch.Tensor, num_tokens: int
    ) -> None:
        if torch.compiler.is_compiling():  # fuses the norm itself
            super()._output_projection(core_attn_out, z, output, num_tokens)
        else:
            output[:num_tokens] = self.normed_projection(core_attn_out, z)
