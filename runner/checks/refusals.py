# SPDX-License-Identifier: Apache-2.0
"""Refuse, before any work, what the layered worker cannot serve."""

from __future__ import annotations

from math import gcd

from vllm.config import ModelConfig, MultiModalConfig, VllmConfig

from ascend_gdn.runner.align_scheduler import AlignedAsyncScheduler, AlignedScheduler
from ascend_gdn.runner.checks.additional_options import gdn_options, refused_options
from ascend_gdn.runner.checks.errors import raise_if_refused

GDN_MODEL_TYPES = frozenset({"qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"})
"""Text models whose linear attention is ``QwenGatedDeltaNetAttention`` in vLLM 0.23.0
(models/qwen3_next.py, models/qwen3_5.py)."""


def has_gdn_layers(vllm_config: VllmConfig) -> bool:
    """Whether the model is of a family that vLLM builds with ``QwenGatedDeltaNetAttention``."""
    return vllm_config.model_config.hf_text_config.model_type in GDN_MODEL_TYPES


def refuse_unsupported(vllm_config: VllmConfig) -> None:
    """Raise ``ValueError`` naming every option that the worker does not support."""
    model, text = vllm_config.model_config, vllm_config.model_config.hf_text_config
    heads = (text.linear_num_key_heads, text.linear_num_value_heads)
    vision = vision_options(model)
    ranks = vllm_config.parallel_config.tensor_parallel_size
    aligns = vllm_config.cache_config.mamba_cache_mode == "align"
    speculates = vllm_config.speculative_config is not None
    scheduler = vllm_config.scheduler_config.get_scheduler_cls()
    asynchronous = vllm_config.scheduler_config.async_scheduling
    aligned = AlignedAsyncScheduler if asynchronous else AlignedScheduler
    name = "AlignedAsyncScheduler" if asynchronous else "AlignedScheduler"
    wrong_options = refused_options(vllm_config)
    in_parts = vllm_config.parallel_config.prefill_context_parallel_size
    raise_if_refused(
        (
            in_parts > 1 and not wrong_options and gdn_options(vllm_config).verify,
            f"got ascend_gdn.verify with --prefill-context-parallel-size {in_parts}, expected 1: "
            "what a rank has of a step is not planned again; leave one of them out",
        ),
        (
            # vLLM 0.23.0 compares attention heads alone, and cuts what does not divide.
            any(count % ranks for count in heads),
            f"got --tensor-parallel-size {ranks} for {heads[0]} key and {heads[1]} value heads of "
            "linear attention (linear_num_key_heads, linear_num_value_heads), expected a divisor "
            f"of both; pass one of {_divisors(*heads, text.num_attention_heads)}",
        ),
        (
            vision is not None
            and vision.mm_encoder_tp_mode != "data"
            and model.hf_config.vision_config.num_heads % ranks != 0,
            f"got --tensor-parallel-size {ranks}, expected a divisor of the vision tower's heads "
            "(num_heads of vision_config); serve text alone with --language-model-only, or pass "
            "--mm-encoder-tp-mode data",
        ),
        (
            vllm_config.scheduler_config.disable_hybrid_kv_cache_manager,
            "got the hybrid KV cache manager switched off, expected on: the states of GDN layers "
            "and the cache of attention are no one kind; leave out "
            "--disable-hybrid-kv-cache-manager, or a --kv-transfer-config whose connector does not "
            "support it",
        ),
        (
            aligns and speculates and not issubclass(scheduler, aligned),
            f"got prefix caching with speculative decoding under {scheduler.__name__} and "
            f"async_scheduling={asynchronous}, expected {name}: vLLM 0.23.0's caches "
            "states of other tokens than it says (vllm-project/vllm#43559); pass --scheduler-cls "
            f"ascend_gdn.runner.align_scheduler.{name}, or --no-enable-prefix-caching",
        ),
        (
            model.enable_prompt_embeds and speculates,
            "got --enable-prompt-embeds with speculative decoding, expected one of them: vLLM "
            "0.23.0's drafter asks for the last token of a prompt in chunks (v1/spec_decode/"
            "llm_base_proposer.py:950), which embeddings have not, and the engine ends with the "
            "first such request; leave out one of the two options",
        ),
        (
            vllm_config.use_v2_model_runner,
            "got vLLM's V2 model runner, expected V1; set VLLM_USE_V2_MODEL_RUNNER=0",
        ),
        (
            vllm_config.parallel_config.use_ubatching,
            "got micro-batching, expected none: vLLM 0.23.0 does not support it with GDN either; "
            "leave out --enable-dbo and --ubatch-size",
        ),
        (
            vllm_config.lora_config is not None,
            "got LoRA, expected none: GDN layers have no LoRA path here; leave out --enable-lora",
        ),
        *((True, refusal) for refusal in wrong_options),
    )


def vision_options(model: ModelConfig) -> MultiModalConfig | None:
    """What is set for the vision tower; None where vLLM makes none."""
    options = model.multimodal_config
    if options is None or not any(map(options.get_limit_per_prompt, ("image", "video"))):
        return None
    return options


def _divisors(*numbers: int) -> str:
    common = gcd(*numbers)
    return ", ".join(str(size) for size in range(1, common + 1) if common % size == 0)
