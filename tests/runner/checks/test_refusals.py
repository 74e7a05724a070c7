# SPDX-License-Identifier: Apache-2.0
"""Configurations that the worker refuses before any work."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from vllm.config import MultiModalConfig
from vllm.v1.core.sched.scheduler import Scheduler

from ascend_gdn.runner.align_scheduler import AlignedAsyncScheduler, AlignedScheduler
from ascend_gdn.runner.checks.align_refusals import refuse_unaligned
from ascend_gdn.runner.checks.refusals import (
    has_gdn_layers,
    refuse_unsupported,
    vision_options,
)
from upstream_calls import OLDEST


def config(**changes):
    values = {
        "mamba_cache_mode": "none",
        "speculative_config": None,
        "use_v2_model_runner": False,
        "use_ubatching": False,
        "lora_config": None,
        "model_type": "qwen3_next",
        "scheduler": AlignedScheduler,
        "async_scheduling": False,
        "block_size": 384,
        "max_num_batched_tokens": 2048,
        "enable_chunked_prefill": True,
        "max_model_len": 4096,
        "long_prefill_token_threshold": 0,
        "disable_hybrid_kv_cache_manager": False,
        "tensor_parallel_size": 1,
        "prefill_context_parallel_size": 1,
        "decode_context_parallel_size": 1,
        "enable_expert_parallel": False,
        "multimodal_config": None,
        "additional_config": {},
        "dtype": torch.bfloat16,
        "enable_prompt_embeds": False,
    } | changes
    return SimpleNamespace(
        cache_config=SimpleNamespace(
            mamba_cache_mode=values["mamba_cache_mode"], block_size=values["block_size"]
        ),
        speculative_config=values["speculative_config"],
        scheduler_config=SimpleNamespace(
            get_scheduler_cls=lambda: values["scheduler"],
            async_scheduling=values["async_scheduling"],
            max_num_batched_tokens=values["max_num_batched_tokens"],
            enable_chunked_prefill=values["enable_chunked_prefill"],
            long_prefill_token_threshold=values["long_prefill_token_threshold"],
            disable_hybrid_kv_cache_manager=values["disable_hybrid_kv_cache_manager"],
        ),
        use_v2_model_runner=values["use_v2_model_runner"],
        parallel_config=SimpleNamespace(
            use_ubatching=values["use_ubatching"],
            tensor_parallel_size=values["tensor_parallel_size"],
            prefill_context_parallel_size=values["prefill_context_parallel_size"],
            decode_context_parallel_size=values["decode_context_parallel_size"],
            enable_expert_parallel=values["enable_expert_parallel"],
            data_parallel_size=1,
        ),
        lora_config=values["lora_config"],
        additional_config=values["additional_config"],
        model_config=SimpleNamespace(
            hf_text_config=SimpleNamespace(
                model_type=values["model_type"],
                linear_num_key_heads=4,
                linear_num_value_heads=12,
                num_attention_heads=16,
            ),
            hf_config=SimpleNamespace(vision_config=SimpleNamespace(num_heads=6)),
            multimodal_config=values["multimodal_config"],
            dtype=values["dtype"],
            max_model_len=values["max_model_len"],
            enable_prompt_embeds=values["enable_prompt_embeds"],
        ),
    )


@pytest.mark.parametrize("cache_mode", ["none", "align"])
@pytest.mark.parametrize("speculative_config", [None, object()])
def test_supported_configurations_pass(cache_mode, speculative_config):
    refuse_unsupported(config(mamba_cache_mode=cache_mode, speculative_config=speculative_config))


def test_the_scheduler_is_asked_for_by_how_the_engine_schedules():
    # In an asynchronous engine vLLM verifies no draft of a scheduler that is not.
    align = {"mamba_cache_mode": "align", "speculative_config": object()}
    asynchronous = align | {"async_scheduling": True}
    refuse_unsupported(config(**asynchronous, scheduler=AlignedAsyncScheduler))
    refuse_unsupported(config(**align, scheduler=AlignedScheduler))
    wrong = [(asynchronous, AlignedScheduler, "AlignedAsyncScheduler")]
    if OLDEST:  # else vLLM's own are right
        wrong += [
            (asynchronous, Scheduler, "AlignedAsyncScheduler"),
            (align, Scheduler, "AlignedScheduler"),
            (align, AlignedAsyncScheduler, "AlignedScheduler"),
        ]
    for changes, scheduler, expected in wrong:
        with pytest.raises(ValueError, match=rf"align_scheduler\.{expected}, or"):
            refuse_unsupported(config(**changes, scheduler=scheduler))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"enable_prompt_embeds": True, "speculative_config": 1},
            "got --enable-prompt-embeds with speculative decoding",
        ),
        ({"use_v2_model_runner": True}, "VLLM_USE_V2_MODEL_RUNNER=0"),
        ({"use_ubatching": True}, "leave out --enable-dbo and --ubatch-size"),
        ({"lora_config": object()}, "leave out --enable-lora"),
        (
            {"tensor_parallel_size": 8},
            "got --tensor-parallel-size 8 for 4 key and 12 value heads of linear attention",
        ),
        ({"tensor_parallel_size": 3}, "expected a divisor of both; pass one of 1, 2, 4"),
        ({"disable_hybrid_kv_cache_manager": True}, "leave out --disable-hybrid-kv-cache-manager"),
        (
            {
                "additional_config": {"ascend_gdn": {"verify": True}},
                "prefill_context_parallel_size": 2,
            },
            "got ascend_gdn.verify with --prefill-context-parallel-size 2, expected 1",
        ),
        (
            {"additional_config": {"ascend_gdn": {"verfy": True}}},
            "got ascend_gdn.verfy in --additional-config",
        ),
        (
            {"additional_config": {"gdn_table_fill": "gpu"}},
            "got gdn_table_fill='gpu', expected 'host' or 'triton'; correct --additional-config",
        ),
        (
            {"additional_config": {"gdn_table_fil": "triton"}},
            "got 'gdn_table_fil' in --additional-config",
        ),
    ],
)
def test_refusals_say_what_to_change(changes, message):
    with pytest.raises(ValueError, match="does not support this configuration") as caught:
        refuse_unsupported(config(**changes))
    assert message in str(caught.value)


@pytest.mark.parametrize("changes", [{"mamba_cache_mode": "align"}, {"speculative_config": 1}])
def test_either_of_both_needs_no_scheduler_of_ours(changes):
    refuse_unsupported(config(**changes, scheduler=Scheduler))


def test_all_refusals_come_at_once():
    with pytest.raises(ValueError, match=r"tensor-parallel-size 8.*LoRA"):
        refuse_unsupported(config(tensor_parallel_size=8, lora_config=object()))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_that_divide_the_heads_pass(ranks):
    refuse_unsupported(config(tensor_parallel_size=ranks))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_num_batched_tokens": 383},
            "got --max-num-batched-tokens 383, expected at least 384 with prefix caching",
        ),
        (
            {"long_prefill_token_threshold": 64},
            "got --long-prefill-token-threshold 64, expected at least 384 with prefix caching",
        ),
    ],
)
def test_steps_that_cannot_reach_the_end_of_a_block(changes, message):
    refuse_unaligned(config(**changes))  # no states are cached
    refuse_unaligned(config(**dict.fromkeys(changes, 384), mamba_cache_mode="align"))
    with pytest.raises(ValueError, match=message):
        refuse_unaligned(config(**changes, mamba_cache_mode="align"))


NO_IMAGES = {"limit_per_prompt": {"image": 0, "video": 0}}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"limit_per_prompt": {"image": 0}}, True),
        (NO_IMAGES, False),
        ({"language_model_only": True}, False),
    ],
)
def test_who_makes_a_vision_tower(options, expected):
    given = MultiModalConfig(**options)
    found = vision_options(config(multimodal_config=given).model_config)
    assert found is (given if expected else None)
    assert vision_options(config().model_config) is None


def test_ranks_that_cut_heads_of_the_vision_tower_are_refused():
    def refuse(ranks, **options):
        multimodal_config = MultiModalConfig(**options)
        refuse_unsupported(config(tensor_parallel_size=ranks, multimodal_config=multimodal_config))

    with pytest.raises(ValueError, match=r"got --tensor-parallel-size 4.*--language-model-only"):
        refuse(4)
    refuse(2)
    refuse(4, mm_encoder_tp_mode="data")
    refuse(4, **NO_IMAGES)


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [("qwen3_next", True), ("qwen3_5_text", True), ("qwen3_5_moe_text", True), ("llama", False)],
)
def test_has_gdn_layers(model_type, expected):
    assert has_gdn_layers(config(model_type=model_type)) is expected
