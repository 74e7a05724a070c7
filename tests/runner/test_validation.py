# SPDX-License-Identifier: Apache-2.0
"""Configurations that the worker refuses before any work."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from vllm.v1.core.sched.scheduler import Scheduler

from ascend_gdn.runner.align_scheduler import AlignedAsyncScheduler, AlignedScheduler
from ascend_gdn.runner.validation import has_gdn_layers, refuse_unsupported


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
        "additional_config": {},
        "dtype": torch.bfloat16,
    } | changes
    return SimpleNamespace(
        cache_config=SimpleNamespace(mamba_cache_mode=values["mamba_cache_mode"]),
        speculative_config=values["speculative_config"],
        scheduler_config=SimpleNamespace(
            get_scheduler_cls=lambda: values["scheduler"],
            async_scheduling=values["async_scheduling"],
        ),
        use_v2_model_runner=values["use_v2_model_runner"],
        parallel_config=SimpleNamespace(use_ubatching=values["use_ubatching"]),
        lora_config=values["lora_config"],
        additional_config=values["additional_config"],
        model_config=SimpleNamespace(
            hf_text_config=SimpleNamespace(model_type=values["model_type"]), dtype=values["dtype"]
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
    for changes, scheduler, expected in (
        (asynchronous, AlignedScheduler, "AlignedAsyncScheduler"),
        (asynchronous, Scheduler, "AlignedAsyncScheduler"),
        (align, AlignedAsyncScheduler, "AlignedScheduler"),
    ):
        with pytest.raises(ValueError, match=rf"align_scheduler\.{expected}, or"):
            refuse_unsupported(config(**changes, scheduler=scheduler))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mamba_cache_mode": "all"}, "got mamba_cache_mode='all', expected 'none' or 'align'"),
        (
            {"mamba_cache_mode": "align", "speculative_config": 1, "scheduler": Scheduler},
            "--scheduler-cls ascend_gdn.runner.align_scheduler.AlignedScheduler",
        ),
        ({"use_v2_model_runner": True}, "VLLM_USE_V2_MODEL_RUNNER=0"),
        ({"use_ubatching": True}, "leave out --enable-dbo and --ubatch-size"),
        ({"lora_config": object()}, "leave out --enable-lora"),
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
    with pytest.raises(ValueError, match=r"mamba_cache_mode.*LoRA"):
        refuse_unsupported(config(mamba_cache_mode="all", lora_config=object()))


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [("qwen3_next", True), ("qwen3_5_text", True), ("qwen3_5_moe_text", True), ("llama", False)],
)
def test_has_gdn_layers(model_type, expected):
    assert has_gdn_layers(config(model_type=model_type)) is expected
