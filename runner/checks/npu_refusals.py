# SPDX-License-Identifier: Apache-2.0
"""Ascend: what vLLM-Ascend does only for ``--worker-cls auto`` is done here, or refused."""

from __future__ import annotations

from vllm.config import VllmConfig
from vllm.logger import init_logger

from ascend_gdn.runner.checks.errors import Refusal, raise_if_refused

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers


def refuse_unsupported_on_ascend(vllm_config: VllmConfig, is_310p: bool, *others: Refusal) -> None:
    """Raise ``ValueError`` naming all that this worker does not support on Ascend.

    Args:
        vllm_config: As vLLM-Ascend's platform has left it.
        is_310p: Whether the device is an Atlas 300I (310P).
        others: What the installed version does not serve.
    """
    xlite = (vllm_config.additional_config or {}).get("xlite_graph_config", {})
    raise_if_refused(
        # With worker_cls "auto", vllm_ascend/platform.py (0.23.0, 0.30.0rc2) takes another worker
        # for these two. With ours they would not be served as configured.
        (
            is_310p,
            "got a 310P, expected a 910B or later: vLLM-Ascend has a worker of its own for it; "
            "leave out --worker-cls",
        ),
        (
            bool(xlite.get("enabled", False)),
            "got xlite_graph_config with enabled=true in --additional-config, which needs "
            "vLLM-Ascend's Xlite worker; switch it off, or leave out --worker-cls",
        ),
        *others,
    )


def repair_all2all_backend(vllm_config: VllmConfig) -> None:
    """Choose the all-to-all backend that vLLM-Ascend chooses for its own worker.

    With worker_cls "auto" and sequence parallelism off, vllm_ascend/platform.py (0.23.0) sets it so
    that vLLM does not go sequence-parallel in its MoE layers.
    """
    parallel, passes = vllm_config.parallel_config, vllm_config.compilation_config.pass_config
    if not passes.enable_sp and parallel.all2all_backend != "flashinfer_all2allv":
        logger.info(
            "ascend-gdn: all2all_backend %s -> flashinfer_all2allv, as vLLM-Ascend sets it for its "
            "own worker.",
            parallel.all2all_backend,
        )
        parallel.all2all_backend = "flashinfer_all2allv"
