# SPDX-License-Identifier: Apache-2.0
"""Real configurations on CPU: what vLLM makes of options by itself, and what is refused then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from vllm.engine.arg_utils import EngineArgs

from ascend_gdn.runner.checks.cpu_refusals import refuse_unsupported_on_cpu
from ascend_gdn.runner.checks.refusals import refuse_unsupported
from tiny_checkpoint import TinySizes, write_checkpoint


@pytest.fixture(scope="module", params=["qwen3_next"])
def model(request, tmp_path_factory) -> Path:
    sizes = TinySizes(family=request.param, layers=2, full_attention_interval=2, hidden_size=64)
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "model", sizes)


@pytest.fixture
def engine_config(model, mocker):
    # All that vLLM sets is unset at the end, and transformers' own classes are found again.
    mocker.patch.dict(os.environ, {"VLLM_CPU_KVCACHE_SPACE": "1"})
    mocker.patch.dict(CONFIG_MAPPING._extra_content)

    def make(**options):
        arguments = EngineArgs(str(model), max_model_len=2048, enforce_eager=True, **options)
        vllm_config = arguments.create_engine_config()
        refuse_unsupported(vllm_config)
        refuse_unsupported_on_cpu(vllm_config)
        return vllm_config

    return make


@pytest.mark.parametrize(("enable_prefix_caching", "expected"), [(False, "none"), (True, "align")])
def test_all_states_are_not_cached(engine_config, enable_prefix_caching, expected):
    vllm_config = engine_config(mamba_cache_mode="all", enable_prefix_caching=enable_prefix_caching)
    assert vllm_config.cache_config.mamba_cache_mode == expected


def test_two_batches_at_once_are_switched_off(engine_config):
    assert not engine_config(enable_dbo=True).parallel_config.use_ubatching


def test_micro_batches_are_refused_by_vllm_or_by_us(engine_config):
    with pytest.raises(ValueError, match="Microbatching currently only supports the deepep"):
        engine_config(ubatch_size=2)
    with pytest.raises(ValueError, match="leave out --enable-dbo and --ubatch-size"):
        engine_config(ubatch_size=2, all2all_backend="deepep_low_latency")


@pytest.mark.parametrize("model", ["qwen3_5"], indirect=True)
def test_qwen3_5_is_taken_for_text_alone(engine_config):
    with pytest.raises(ValueError, match=r"got a model that takes images.*--language-model-only"):
        engine_config()
    engine_config(language_model_only=True)
    with pytest.raises(ValueError, match=r"got --tensor-parallel-size 2, .* the vision tower's"):
        engine_config(tensor_parallel_size=2, skip_mm_profiling=True)
    engine_config(tensor_parallel_size=2, language_model_only=True)


def test_a_connector_that_takes_one_kind_of_cache_is_refused(engine_config):
    connector = {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}
    with pytest.raises(ValueError, match="got the hybrid KV cache manager switched off"):
        engine_config(kv_transfer_config=connector)


def test_ranks_for_which_there_are_no_key_heads_are_refused(engine_config):
    with pytest.raises(ValueError, match=r"size 4 for 2 key and 4 value heads .* one of 1, 2"):
        engine_config(tensor_parallel_size=4)
