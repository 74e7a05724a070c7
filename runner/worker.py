# SPDX-License-Identifier: Apache-2.0
"""The layer over vLLM's worker: check the stack, register the GDN layer, run our model runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.model_executor.custom_op import PluggableLayer, op_registry_oot
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention

from ascend_gdn.runner.compat import check_seams, check_version, vllm_seams
from ascend_gdn.runner.validation import has_gdn_layers, refuse_unsupported

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_worker import Worker as Base

    from ascend_gdn.runner.model_runner import StepModelRunnerMixin
else:
    Base = object

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers


def register_gdn_layer(layer_cls: type[QwenGatedDeltaNetAttention]) -> None:
    """Have vLLM make ``layer_cls`` wherever a model asks for its ``QwenGatedDeltaNetAttention``.

    Once a process: vLLM 0.23.0 keeps out-of-tree layers in one registry by name.
    """
    name = QwenGatedDeltaNetAttention.__name__
    registered = op_registry_oot.get(name)
    if registered is None:
        PluggableLayer.register_oot(layer_cls, name=name)
    elif registered is not layer_cls:
        raise RuntimeError(
            f"ascend-gdn: got {registered.__module__}.{registered.__qualname__} registered for "
            f"{name}, expected none: another plug-in replaces the same layer. Switch it off "
            "(VLLM_PLUGINS) or use its own worker."
        )


class StepWorkerMixin(Base):
    """Put it before a vLLM worker in the bases and name the layer and how to make the runner."""

    gdn_layer_cls: type[QwenGatedDeltaNetAttention]
    """The GDN layer of the platform."""

    def __init__(self, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:
        check_version()
        check_seams(vllm_seams())
        self.has_gdn_layers = has_gdn_layers(vllm_config)
        if self.has_gdn_layers:
            refuse_unsupported(vllm_config)
            register_gdn_layer(self.gdn_layer_cls)
        else:
            logger.info(
                "ascend-gdn: %s has no GDN layers; the worker behaves as vLLM's own.",
                vllm_config.model_config.model,
            )
        super().__init__(vllm_config, *args, **kwargs)

    def make_model_runner(self) -> StepModelRunnerMixin:
        """Make the platform's model runner with :class:`StepModelRunnerMixin` over it."""
        raise NotImplementedError

    def init_device(self) -> None:
        # vLLM's workers make their runner inside init_device (cpu_worker.py, gpu_worker.py,
        # 0.23.0); ours takes its place before anything has been loaded into it.
        super().init_device()
        if self.has_gdn_layers:
            self.model_runner = self.make_model_runner()

    def gdn_stats(self) -> dict[str, float]:
        """What the worker did since it started, for ``collective_rpc``: see ``GDNStats``."""
        if not self.has_gdn_layers:
            return {}
        return self.model_runner.gdn_stats.as_dict()

    def shutdown(self) -> None:
        if self.has_gdn_layers and self.model_runner is not None:
            self.model_runner.close_gdn_pool()
        super().shutdown()
