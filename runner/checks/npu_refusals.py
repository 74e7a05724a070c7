# SPDX-License-Identifier: Apache-2.0
"""Ascend: what vLLM-Ascend does only for ``--worker-cls auto`` is done here, or refused."""

from __future__ import annotations

from vllm.config import VllmConfig
from vllm.logger import init_logger

from ascend_gdn.runner.checks.errors import raise_if_refused

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers


def refuse_unsupported_on_ascend(
    vllm_config: VllmConfig, *, is_310p: bool, has_gdn_layers: bool
) -> None:
    """Raise ``ValueError`` naming all that this worker does not support on Ascend.

    Args:
        vllm_config: As vLLM-Ascend's platform has left it.
        is_310p: Whether the device is an Atlas 300I (310P).
        has_gdn_layers: Whether the model has any; without, the worker is vLLM-Ascend's own.
    """
    xlite = (vllm_config.additional_config or {}).get("xlite_graph_config", {})
    context_parallel = vllm_config.parallel_config.prefill_context_parallel_size
    in_parts = has_gdn_layers and context_parallel > 1
    raise_if_refused(
        # With worker_cls "auto", vllm_ascend/platform.py (0.23.0) takes another worker for these
        # two. With ours they would not be served as configured.
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
        (
            in_parts and vllm_config.speculative_config is not None,
            f"got --prefill-context-parallel-size {context_parallel} with a --speculative-config, "
            "which this worker does not have together; leave one out",
        ),
        (
            in_parts and vllm_config.cache_config.enable_prefix_caching,
            f"got --prefill-context-parallel-size {context_parallel} with prefix caching, which "
            "this worker does not have together; add --no-enable-prefix-caching",
        ),
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
