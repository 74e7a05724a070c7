# SPDX-License-Identifier: Apache-2.0
"""CUDA: vLLM's GPU worker and model runner with step-scoped GDN metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.config import CUDAGraphMode
from vllm.platforms import current_platform
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

from ascend_gdn.runner.additional_options import additional_option
from ascend_gdn.runner.compat import check_seams
from ascend_gdn.runner.gpu_compat import gpu_seams
from ascend_gdn.runner.gpu_prefill_backend import settle_prefill_backend
from ascend_gdn.runner.model_runner import WARM_UP_TOKENS, StepModelRunnerMixin
from ascend_gdn.runner.upstream.ordered_state_copies import OrderedStateCopiesMixin
from ascend_gdn.runner.validation import has_gdn_layers, raise_if_refused
from ascend_gdn.runner.worker import StepWorkerMixin, check_platform

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention


class StepGPUModelRunner(OrderedStateCopiesMixin, StepModelRunnerMixin, GPUModelRunner):
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


class GPUWorker(StepWorkerMixin, Worker):
    """``--worker-cls ascend_gdn.runner.GPUWorker``."""

    device_type = "cuda"

    def __init__(self, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:
        check_platform(self.device_type, current_platform.device_type)
        if has_gdn_layers(vllm_config):
            check_seams(gpu_seams())
            refuse_unsupported_on_gpu(vllm_config)
            settle_prefill_backend(vllm_config)
        super().__init__(vllm_config, *args, **kwargs)

    def gdn_layer_cls(self) -> type[QwenGatedDeltaNetAttention]:
        # It builds on Triton kernels, which are there only where Triton is.
        from ascend_gdn.fla.cuda.gdn import StepCudaGatedDeltaNetAttention

        return StepCudaGatedDeltaNetAttention

    def make_model_runner(self) -> StepGPUModelRunner:
        return StepGPUModelRunner(self.vllm_config, self.device)


def refuse_unsupported_on_gpu(vllm_config: VllmConfig) -> None:
    """Raise ``ValueError`` naming what this worker does not support on CUDA."""
    backend = additional_option(vllm_config, "gdn_prefill_backend")
    context_parallel = vllm_config.parallel_config.prefill_context_parallel_size
    raise_if_refused(
        [
            (
                # chunk_gated_delta_rule in model_executor/layers/fla/ops/chunk.py (0.23.0).
                vllm_config.model_config.dtype == torch.float32,
                "got dtype float32, expected bfloat16 or float16: vLLM's GDN kernels for CUDA take "
                "no other; pass --dtype bfloat16",
            ),
            (
                # It makes tables of its own on the device (prepare_metadata_cutedsl in
                # model_executor/layers/mamba/ops/gdn_chunk_cutedsl, 0.23.0).
                backend == "cutedsl",
                "got gdn_prefill_backend='cutedsl', expected 'triton' or 'flashinfer'; pass "
                "--gdn-prefill-backend triton",
            ),
            (
                # check_attention_cp_compatibility in v1/worker/cp_utils.py (0.23.0) says so once
                # the model is loaded and profiled.
                context_parallel > 1,
                f"got --prefill-context-parallel-size {context_parallel}, expected 1: none of "
                "vLLM's attention backends for CUDA has it; leave it out",
            ),
        ]
    )
