# SPDX-License-Identifier: Apache-2.0
"""Ascend: vLLM-Ascend's NPU worker and model runner with step-scoped GDN metadata."""

from __future__ import annotations

from vllm.config import VllmConfig
from vllm.v1.utils import report_usage_stats
from vllm.v1.worker.workspace import init_workspace_manager
from vllm_ascend.worker.worker import NPUWorker as AscendNPUWorker

from ascend_gdn.runner.checks.npu_refusals import refuse_unsupported_on_ascend
from ascend_gdn.runner.checks.seams import check_seams
from ascend_gdn.runner.versions import ascend_version, check_ascend_version
from ascend_gdn.runner.worker import StepWorkerMixin

_VERSION = ascend_version()


class NPUWorker(StepWorkerMixin, AscendNPUWorker):
    """``--worker-cls ascend_gdn.runner.NPUWorker``."""

    device_type = "npu"
    model_runner_cls = _VERSION.StepNPUModelRunner

    @classmethod
    def check_platform(cls, vllm_config: VllmConfig, has_gdn_layers: bool) -> None:
        check_ascend_version()
        check_seams(_VERSION.ascend_seams())
        refuse_unsupported_on_ascend(
            vllm_config, _VERSION.is_310p(), *_VERSION.refusals(vllm_config, has_gdn_layers)
        )
        _VERSION.repair(vllm_config)

    def gdn_layer_cls(self) -> type:
        return _VERSION.layer_cls(self.vllm_config)

    def prefill_kernels(self) -> str:
        return _VERSION.prefill_operators()

    def init_device(self) -> None:
        # vLLM-Ascend's worker with another runner, as its own variants do it
        # (xlite/xlite_worker.py): two runners would hold their device buffers at once.
        if not self.has_gdn_layers:
            super().init_device()
            return
        self.device = self._init_device()
        init_workspace_manager(self.device, num_ubatches=1)
        self.model_runner = self.make_model_runner()
        if self.rank == 0:
            report_usage_stats(self.vllm_config)
