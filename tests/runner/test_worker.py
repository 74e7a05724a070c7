# SPDX-License-Identifier: Apache-2.0
"""The worker's layer over a stub of vLLM's worker."""

from __future__ import annotations

import pytest
from vllm.model_executor.custom_op import op_registry_oot
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention

from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.fla.cpu.gdn import StepCPUGatedDeltaNetAttention
from ascend_gdn.runner import worker as module
from ascend_gdn.runner.checks.errors import raise_if_refused
from ascend_gdn.runner.model_runner import StepModelRunnerMixin
from ascend_gdn.runner.worker import StepWorkerMixin, register_out_of_tree
from upstream_calls import OLDEST

from .checks.test_refusals import config

NAME = "QwenGatedDeltaNetAttention"


class StubWorker:
    def __init__(self, vllm_config) -> None:
        self.vllm_config = vllm_config
        self.model_runner = None
        self.ended = False

    def init_device(self) -> None:
        self.model_runner = "vLLM's"

    def get_kv_cache_spec(self) -> str:
        return "vLLM's"

    def compile_or_warm_up_model(self) -> str:
        return "vLLM's"

    def shutdown(self) -> None:
        self.ended = True


class StubRunner(StepModelRunnerMixin):
    def __init__(self) -> None:
        self.gdn_stats = GDNStats(steps=3, host_ns=2500)
        self.gdn_steps = self.gdn_metrics = None


class Worker(StepWorkerMixin, StubWorker):
    device_type = "cpu"

    def gdn_layer_cls(self):
        return StepCPUGatedDeltaNetAttention

    def make_model_runner(self):
        return StubRunner()

    def prefill_kernels(self) -> str:
        return "kernels"


@pytest.fixture
def registry(mocker):
    """The registry of out-of-tree layers, as it was before, once the test is over."""
    mocker.patch.dict(op_registry_oot, clear=True)
    return op_registry_oot


def named_config(**changes):
    vllm_config = config(**changes)
    vllm_config.model_config.model = "some/model"
    return vllm_config


def test_a_gdn_model_gets_our_layer_and_runner(registry):
    worker = Worker(named_config())
    assert registry[NAME] is StepCPUGatedDeltaNetAttention
    worker.init_device()
    assert isinstance(worker.model_runner, StubRunner)
    assert worker.gdn_stats()["steps"] == 3
    assert worker.gdn_stats()["host_us"] == 2.5
    worker.shutdown()
    assert worker.ended


def test_the_pools_end_with_the_worker(registry, mocker):
    worker = Worker(named_config())
    worker.init_device()
    steps = worker.model_runner.gdn_steps = mocker.Mock()
    worker.shutdown()
    steps.close.assert_called_once_with()
    assert worker.model_runner.gdn_steps is None


def test_what_is_active_is_told_once_it_is_up_and_what_was_counted_at_the_end(registry, mocker):
    mocker.patch.object(module, "start_line", side_effect=lambda *given: str(given[1:]))
    info = mocker.patch.object(module.logger, "info")
    worker = Worker(named_config())
    worker.init_device()
    assert worker.compile_or_warm_up_model() == "vLLM's"
    info.assert_not_called()  # a rank without GDN layers
    worker.model_runner.gdn_steps = steps = mocker.Mock()
    worker.compile_or_warm_up_model()
    told = [call.args[0] % call.args[1:] for call in info.call_args_list]
    assert told == [f"{(steps, 'cpu', 'kernels', False)}."]
    worker.model_runner.gdn_metrics = metrics = mocker.Mock()
    worker.shutdown()
    metrics.end.assert_called_once_with()
    assert (
        "ends after steps 3, prefill_steps 0, " in info.call_args.args[0] % info.call_args.args[1:]
    )


def test_a_worker_of_another_platform_is_not_started(registry):
    class WorkerForNPU(Worker):
        device_type = "npu"

    with pytest.raises(RuntimeError, match="got vLLM on 'cpu', expected 'npu'"):
        WorkerForNPU(named_config())
    assert NAME not in registry


def test_another_model_is_left_to_vllm(registry):
    worker = Worker(named_config(model_type="llama", speculative_config=object()))
    worker.init_device()
    assert worker.model_runner == "vLLM's"
    assert NAME not in registry
    assert worker.gdn_stats() == {}
    worker.shutdown()
    assert worker.ended


def test_a_refused_option_stops_before_anything_is_registered(registry):
    with pytest.raises(ValueError, match="--enable-lora"):
        Worker(named_config(lora_config=object()))
    assert NAME not in registry


def test_what_the_platform_refuses_is_said_with_the_rest(registry):
    class OfPlatform(Worker):
        @classmethod
        def check_platform(cls, vllm_config, has_gdn_layers):
            raise_if_refused((has_gdn_layers, "got X, expected Y; pass --z"))

    with pytest.raises(ValueError, match=r"pass --z; got LoRA, .*--enable-lora"):
        OfPlatform(named_config(lora_config=object()))
    assert OfPlatform.check(named_config(model_type="llama")) is False


@pytest.mark.parametrize(
    ("device_type", "options", "told"),
    [
        ("cpu", {"other": 1, "gdn_table_fill": "host", "table_fill": "triton"}, True),
        ("cpu", {"gdn_table_fill": "host"}, False),
        ("npu", {"enable_cpu_binding": False}, False),
    ],
)
def test_options_that_nobody_here_reads_are_told(registry, mocker, device_type, options, told):
    class WorkerOfPlatform(Worker):
        pass

    WorkerOfPlatform.device_type = device_type
    mocker.patch.object(module, "current_platform", device_type=device_type)
    warning = mocker.patch.object(module.logger, "warning")
    WorkerOfPlatform(named_config(additional_config=options))
    assert [call.args[1] for call in warning.call_args_list] == (
        ["other, table_fill"] if told else []
    )


def test_a_step_is_compared_with_a_block_once_vllm_has_set_its_size(registry):
    align = {"mamba_cache_mode": "align", "max_num_batched_tokens": 256}
    worker = Worker(named_config(**align, block_size=128))
    assert worker.get_kv_cache_spec() == "vLLM's"
    worker.vllm_config.cache_config.block_size = 384
    if OLDEST:  # later ones reach it in several steps
        with pytest.raises(ValueError, match="--max-num-batched-tokens 256, expected at least 384"):
            worker.get_kv_cache_spec()
    else:
        assert worker.get_kv_cache_spec() == "vLLM's"
    another = Worker(named_config(**align, model_type="llama"))
    assert another.get_kv_cache_spec() == "vLLM's"


def test_the_stack_is_checked_first(mocker, registry):
    mocker.patch.object(module, "check_seams", side_effect=RuntimeError("stop"))
    with pytest.raises(RuntimeError, match="stop"):
        Worker(named_config())
    assert NAME not in registry


def test_registering_twice_is_harmless_and_a_rival_is_named(registry):
    register_out_of_tree(StepCPUGatedDeltaNetAttention, QwenGatedDeltaNetAttention)
    register_out_of_tree(StepCPUGatedDeltaNetAttention, QwenGatedDeltaNetAttention)
    registry[NAME] = StubRunner
    with pytest.raises(RuntimeError, match=r"StubRunner registered for .*VLLM_PLUGINS"):
        register_out_of_tree(StepCPUGatedDeltaNetAttention, QwenGatedDeltaNetAttention)
