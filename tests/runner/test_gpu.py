# SPDX-License-Identifier: Apache-2.0
"""The GPU worker, as far as it goes without a GPU: what it is, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

import ascend_gdn.runner
from ascend_gdn.runner.gpu import StepGPUModelRunner, refuse_unsupported_on_gpu
from ascend_gdn.runner.model_runner import StepModelRunnerMixin
from ascend_gdn.runner.worker import StepWorkerMixin

from .checks.test_refusals import config


def test_it_is_layered_over_vllms_worker_and_runner():
    bases = ascend_gdn.runner.GPUWorker.__mro__
    assert bases.index(StepWorkerMixin) < bases.index(Worker)
    bases = StepGPUModelRunner.__mro__
    assert bases.index(StepModelRunnerMixin) < bases.index(GPUModelRunner)


@pytest.mark.parametrize("backend", ["auto", "triton", "flashinfer"])
def test_backends_of_vllm_are_respected(backend):
    refuse_unsupported_on_gpu(config(additional_config={"gdn_prefill_backend": backend}))
    refuse_unsupported_on_gpu(config())


def test_float32_is_refused():
    with pytest.raises(ValueError, match=r"got dtype float32.*pass --dtype bfloat16"):
        refuse_unsupported_on_gpu(config(dtype=torch.float32))


@pytest.mark.parametrize("backend", ["cutedsl", " CuteDSL "])
def test_a_backend_with_tables_of_its_own_is_refused(backend):
    with pytest.raises(ValueError, match="leave --gdn-prefill-backend out"):
        refuse_unsupported_on_gpu(config(additional_config={"gdn_prefill_backend": backend}))


def test_prefill_context_parallelism_is_refused():
    with pytest.raises(ValueError, match="got --prefill-context-parallel-size 2, expected 1"):
        refuse_unsupported_on_gpu(config(prefill_context_parallel_size=2))
    refuse_unsupported_on_gpu(config(decode_context_parallel_size=2))
