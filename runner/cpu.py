# SPDX-License-Identifier: Apache-2.0
"""CPU: vLLM's CPU worker and model runner with step-scoped GDN metadata."""

from __future__ import annotations

import torch
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker as VllmCPUWorker

from ascend_gdn.fla.gdn import StepQwenGatedDeltaNetAttention
from ascend_gdn.runner.model_runner import StepModelRunnerMixin
from ascend_gdn.runner.worker import StepWorkerMixin


class StepCPUModelRunner(StepModelRunnerMixin, CPUModelRunner):
    """vLLM's CPU model runner, opening a GDN step around each metadata build."""


class CPUWorker(StepWorkerMixin, VllmCPUWorker):
    """``--worker-cls ascend_gdn.runner.CPUWorker``."""

    device_type = "cpu"
    gdn_layer_cls = StepQwenGatedDeltaNetAttention

    def make_model_runner(self) -> StepCPUModelRunner:
        return StepCPUModelRunner(self.vllm_config, torch.device("cpu"))
