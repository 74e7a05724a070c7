# SPDX-License-Identifier: Apache-2.0
"""The layer over vLLM's worker: check the stack, register the GDN layer, run our model runner."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.model_executor.custom_op import CustomOp, PluggableLayer, op_registry_oot
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.platforms import current_platform
from vllm.v1.kv_cache_interface import KVCacheSpec
from vllm.v1.worker.worker_base import CompilationTimes

from ascend_gdn.runner.base import Base
from ascend_gdn.runner.checks.additional_options import unread_options
from ascend_gdn.runner.checks.errors import refuse_together
from ascend_gdn.runner.checks.refusals import has_gdn_layers, refuse_unsupported
from ascend_gdn.runner.checks.rivals import refuse_rival
from ascend_gdn.runner.checks.seams import check_seams
from ascend_gdn.runner.model_runner import StepModelRunnerMixin
from ascend_gdn.runner.start_line import start_line
from ascend_gdn.runner.versions import check_version, vllm_version

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers


def register_out_of_tree(layer_cls: type, replaced: type[PluggableLayer | CustomOp]) -> None:
    """Have vLLM make ``layer_cls`` wherever a model asks for ``replaced``.

    Once a process: vLLM 0.23.0 keeps out-of-tree layers in one registry by name.
    """
    refuse_rival(replaced, layer_cls)
    name = replaced.__name__
    if name not in op_registry_oot:
        replaced.register_oot(layer_cls, name=name)


class StepWorkerMixin(Base):
    """Put it before a vLLM worker in the bases, and say which layer and which runner to make."""

    device_type: ClassVar[str]
    """The platform that the worker is for."""
    model_runner_cls: ClassVar[type[StepModelRunnerMixin]]
    """The platform's model runner with ours over it."""

    def __init__(self, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:
        self.has_gdn_layers = self.check(vllm_config)
        super().__init__(vllm_config, *args, **kwargs)
        if self.has_gdn_layers:
            register_out_of_tree(self.gdn_layer_cls(), QwenGatedDeltaNetAttention)

    @classmethod
    def check(cls, vllm_config: VllmConfig) -> bool:
        """Refuse what is refused before anything is loaded; returns whether there are GDN layers.

        Raises:
            IncompatibleStackError: Another version of vLLM or vLLM-Ascend, or other seams.
            RuntimeError: The worker is for another platform.
            ValueError: Options that are not supported, each with what to do.
        """
        check_version(platform=cls.device_type)
        check_seams(vllm_version().vllm_seams())
        expected, found = cls.device_type, current_platform.device_type
        if found != expected:
            raise RuntimeError(
                f"ascend-gdn: got vLLM on {found!r}, expected {expected!r}: this --worker-cls is "
                f"for {expected}. Choose the worker of your platform, or leave --worker-cls out."
            )
        gdn = has_gdn_layers(vllm_config)
        checks = [partial(cls.check_platform, vllm_config, gdn)]
        if gdn:
            checks.append(partial(refuse_unsupported, vllm_config))
        refuse_together(*checks)
        if gdn:
            unread = unread_options(vllm_config)
            if unread and cls.device_type != "npu":  # vLLM-Ascend reads dozens there
                logger.warning(
                    "ascend-gdn: neither vLLM nor ascend-gdn reads %s of --additional-config: they "
                    "do nothing, unless another plug-in reads them.",
                    ", ".join(unread),
                )
        else:
            logger.info(
                "ascend-gdn: %s has no GDN layers; the worker behaves as vLLM's own.",
                vllm_config.model_config.model,
            )
        return gdn

    @classmethod
    def check_platform(cls, vllm_config: VllmConfig, has_gdn_layers: bool) -> None:
        """What the platform adds to the checks, before vLLM's worker is made."""

    def gdn_layer_cls(self) -> type[QwenGatedDeltaNetAttention]:
        """The GDN layer of the platform."""
        raise NotImplementedError

    def prefill_kernels(self) -> str:
        """Whose run its prefills, for the log."""
        raise NotImplementedError

    def make_model_runner(self) -> StepModelRunnerMixin:
        return self.model_runner_cls(self.vllm_config, self.device)

    def init_device(self) -> None:
        # vLLM's workers make their runner inside init_device (cpu_worker.py, gpu_worker.py,
        # 0.23.0); ours takes its place before anything has been loaded into it.
        super().init_device()
        if self.has_gdn_layers:
            self.model_runner = self.make_model_runner()

    def get_kv_cache_spec(self) -> dict[str, KVCacheSpec]:
        # The first that vLLM asks for after it has set the size of a block.
        if self.has_gdn_layers:
            vllm_version().refuse_unaligned(self.vllm_config)
        return super().get_kv_cache_spec()

    def compile_or_warm_up_model(self) -> CompilationTimes:
        if isinstance(self.model_runner, StepModelRunnerMixin):
            # First: at its end vLLM starts to watch for kernels that are compiled too late.
            self.model_runner.warm_up_prefill()
        times = super().compile_or_warm_up_model()
        if isinstance(self.model_runner, StepModelRunnerMixin):
            self.model_runner.publish_gdn_metrics()
            steps = self.model_runner.gdn_steps
            if steps is not None:
                kernels = self.prefill_kernels()
                published = self.model_runner.gdn_metrics is not None
                line = start_line(self.vllm_config, steps, self.device_type, kernels, published)
                logger.info("%s.", line)
        return times

    def gdn_stats(self) -> dict[str, float]:
        """What the worker did since it started, for ``collective_rpc``: see ``GDNStats``."""
        if not isinstance(self.model_runner, StepModelRunnerMixin):
            return {}
        return self.model_runner.gdn_stats.as_dict()

    def shutdown(self) -> None:
        if isinstance(self.model_runner, StepModelRunnerMixin):
            counts = self.model_runner.gdn_stats.as_dict()
            if counts["steps"]:
                said = ", ".join(f"{name} {count:.0f}" for name, count in counts.items())
                logger.info("ascend-gdn: ends after %s.", said)
            self.model_runner.end_gdn_metrics()
            self.model_runner.close_gdn_pools()
        super().shutdown()
