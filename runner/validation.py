# SPDX-License-Identifier: Apache-2.0
"""Refuse, before any work, what the layered worker cannot serve."""

from __future__ import annotations

from collections.abc import Iterable

from vllm.config import VllmConfig

from ascend_gdn.runner.additional_options import refused_options
from ascend_gdn.runner.align_scheduler import AlignedAsyncScheduler, AlignedScheduler

GDN_MODEL_TYPES = frozenset({"qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"})
"""Text models whose linear attention is ``QwenGatedDeltaNetAttention`` in vLLM 0.23.0
(models/qwen3_next.py, models/qwen3_5.py)."""


def has_gdn_layers(vllm_config: VllmConfig) -> bool:
    """Whether the model is of a family that vLLM builds with ``QwenGatedDeltaNetAttention``."""
    return vllm_config.model_config.hf_text_config.model_type in GDN_MODEL_TYPES


def refuse_unsupported(vllm_config: VllmConfig) -> None:
    """Raise ``ValueError`` naming every option that the worker does not support."""
    cache_mode = vllm_config.cache_config.mamba_cache_mode
    speculates = vllm_config.speculative_config is not None
    scheduler = vllm_config.scheduler_config.get_scheduler_cls()
    asynchronous = vllm_config.scheduler_config.async_scheduling
    aligned = AlignedAsyncScheduler if asynchronous else AlignedScheduler
    raise_if_refused(
        (
            (
                cache_mode not in ("none", "align"),
                f"got mamba_cache_mode={cache_mode!r}, expected 'none' or 'align'; vLLM 0.23.0 "
                "has no 'all' for GDN either: pass --mamba-cache-mode align",
            ),
            (
                cache_mode == "align" and speculates and not issubclass(scheduler, aligned),
                f"got prefix caching with speculative decoding under {scheduler.__name__} and "
                f"async_scheduling={asynchronous}, expected {aligned.__name__}: vLLM 0.23.0's "
                "caches states of other tokens than it says (vllm-project/vllm#43559); pass "
                f"--scheduler-cls {aligned.__module__}.{aligned.__name__}, or "
                "--no-enable-prefix-caching",
            ),
            (
                vllm_config.use_v2_model_runner,
                "got vLLM's V2 model runner, expected V1; set VLLM_USE_V2_MODEL_RUNNER=0",
            ),
            (
                vllm_config.parallel_config.use_ubatching,
                "got micro-batching, expected none: vLLM 0.23.0 does not support it with GDN "
                "either; leave out --enable-dbo and --ubatch-size",
            ),
            (
                vllm_config.lora_config is not None,
                "got LoRA, expected none: GDN layers have no LoRA path here; leave out "
                "--enable-lora",
            ),
            *((True, refusal) for refusal in refused_options(vllm_config)),
        )
    )


def raise_if_refused(checks: Iterable[tuple[bool, str]]) -> None:
    """Raise ``ValueError`` with the messages of all checks that refuse."""
    refusals = [message for refused, message in checks if refused]
    if refusals:
        raise ValueError(
            "ascend-gdn does not support this configuration: " + "; ".join(refusals) + "."
        )
