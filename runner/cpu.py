# SPDX-License-Identifier: Apache-2.0
"""CPU: vLLM's CPU worker and model runner with step-scoped GDN metadata."""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.v1.worker.cpu_worker import CPUWorker as VllmCPUWorker

from ascend_gdn.fla.cpu.gdn import StepCPUGatedDeltaNetAttention
from ascend_gdn.runner.checks.cpu_refusals import refuse_unsupported_on_cpu
from ascend_gdn.runner.versions import cpu_version
from ascend_gdn.runner.worker import StepWorkerMixin, register_out_of_tree

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers


StepCPUModelRunner = cpu_version().StepCPUModelRunner
"""vLLM's CPU model runner, opening a GDN step around each metadata build."""


class CPUWorker(StepWorkerMixin, VllmCPUWorker):
    """``--worker-cls ascend_gdn.runner.CPUWorker``."""

    device_type = "cpu"
    model_runner_cls = StepCPUModelRunner

    def __init__(self, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(vllm_config, *args, **kwargs)
        if self.has_gdn_layers:
            for replaced, ours in cpu_version().REPLACED.items():
                register_out_of_tree(ours, replaced)
            dtype = vllm_config.model_config.dtype
            if dtype != torch.float32 and not torch.cpu._is_avx512_supported():
                logger.warning(
                    "ascend-gdn: this CPU has no AVX-512, and %s is slow on it; float32 is several "
                    "times as fast in a prefill: pass --dtype float32.",
                    dtype,
                )

    @classmethod
    def check_platform(cls, vllm_config: VllmConfig, has_gdn_layers: bool) -> None:
        if has_gdn_layers:
            refuse_unsupported_on_cpu(vllm_config)

    def gdn_layer_cls(self) -> type[StepCPUGatedDeltaNetAttention]:
        return cpu_version().StepCPULayer

    def prefill_kernels(self) -> str:
        return "PyTorch"
