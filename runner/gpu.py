# SPDX-License-Identifier: Apache-2.0
"""CUDA: vLLM's GPU worker and model runner with step-scoped GDN metadata."""

from __future__ import annotations

from functools import partial
from typing import Any

from vllm.config import CUDAGraphMode, VllmConfig
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

from ascend_gdn.runner.checks.errors import refuse_together
from ascend_gdn.runner.checks.gpu_refusals import refuse_unsupported_on_gpu, settle_prefill_backend
from ascend_gdn.runner.checks.gpu_seams import gpu_seams
from ascend_gdn.runner.checks.seams import check_seams
from ascend_gdn.runner.model_runner import WARM_UP_TOKENS, StepModelRunnerMixin
from ascend_gdn.runner.upstream.late_compiles import CompiledAtStartMixin
from ascend_gdn.runner.upstream.ordered_state_copies import OrderedStateCopiesMixin
from ascend_gdn.runner.worker import StepWorkerMixin


class StepGPUModelRunner(
    CompiledAtStartMixin, OrderedStateCopiesMixin, StepModelRunnerMixin, GPUModelRunner
):
    """vLLM's model runner, opening a GDN step around each metadata build."""

    def warm_up_prefill(self) -> None:
        """Run decodes and a prefill once, with the KV cache in place.

        Before that the convolution cannot be compiled, whose kernel takes the number of blocks as a
        constant (causal_conv1d.py, 0.23.0): otherwise the first request waits for it.
        """
        self._dummy_run(
            min(WARM_UP_TOKENS, self.max_num_tokens),
            cudagraph_runtime_mode=CUDAGraphMode.NONE,
            force_attention=True,
            create_mixed_batch=True,
            skip_eplb=True,
        )
        if self.model_config.enforce_eager:  # else once there are graphs
            self.run_made_up_requests()


class GPUWorker(StepWorkerMixin, Worker):
    """``--worker-cls ascend_gdn.runner.GPUWorker``."""

    device_type = "cuda"
    model_runner_cls = StepGPUModelRunner

    @classmethod
    def check_platform(cls, vllm_config: VllmConfig, has_gdn_layers: bool) -> None:
        if has_gdn_layers:
            check_seams(gpu_seams())
            refuse_together(
                partial(refuse_unsupported_on_gpu, vllm_config),
                partial(settle_prefill_backend, vllm_config),
            )

    def gdn_layer_cls(self) -> type:
        # It builds on Triton kernels, which are there only where Triton is.
        from ascend_gdn.fla.cuda.gdn import StepCudaGatedDeltaNetAttention

        return StepCudaGatedDeltaNetAttention

    def prefill_kernels(self) -> str:
        # The layers' own word: they take vLLM's where a card has too little memory for ours.
        layer_cls: Any = self.gdn_layer_cls()
        layers = self.vllm_config.compilation_config.static_forward_context.values()
        return next(layer.prefill_backend for layer in layers if isinstance(layer, layer_cls))
