# SPDX-License-Identifier: Apache-2.0
"""The real engine stops, and says why, when the contract is broken or cannot be kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ascend_gdn.runner.versions import check_version
from demo_reference import compare, load_reference, reference_logits
from tiny_tokenizer import tiny_tokenizer

from .job import Job, run, start

pytestmark = pytest.mark.engine

NEXT = check_version().vllm == "0.30.0"
PROMPTS = [list(range(3, 203)), list(range(5, 105)), list(range(7, 77))]


@pytest.mark.parametrize(
    ("worker", "expected"),
    [
        pytest.param(
            "DroppingWorker",
            "at model.layers.0.linear_attn: non_spec_prefill_fallback_meta: found None",
            id="missing meta",
        ),
        pytest.param(
            "ReplayingWorker",
            "at model.layers.0.linear_attn: non_spec_prefill_fallback_meta.generation: found slot",
            id="meta of an earlier step",
        ),
    ],
)
def test_a_broken_contract_fails_the_request(worker, expected, small_model: Path, tmp_path: Path):
    job = Job(
        str(small_model),
        PROMPTS,
        worker_cls=f"changed_workers.{worker}",
        engine={"max_num_batched_tokens": 64, "max_num_seqs": 2},
    )
    process = start(job, tmp_path)
    assert process.returncode != 0
    assert not (tmp_path / "result.json").exists()
    assert "GDNContractError: GDN prefill contract broken" in process.stdout
    assert expected in process.stdout


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        pytest.param(
            "enable_prefix_caching",
            "under Scheduler and async_scheduling=False, expected AlignedScheduler",
            marks=pytest.mark.skipif(NEXT, reason="the scheduler of vLLM 0.30.0 is aligned"),
        ),
        ("enable_prompt_embeds", "got --enable-prompt-embeds with speculative decoding"),
    ],
)
def test_an_unsound_combination_is_refused_before_the_model_is_loaded(
    option: str, expected: str, small_model: Path, tmp_path: Path
):
    speculation = {"method": "qwen3_next_mtp", "num_speculative_tokens": 3}
    engine = {option: True, "speculative_config": speculation}
    job = Job(str(small_model), PROMPTS, engine=engine)
    process = start(job, tmp_path)
    assert process.returncode != 0
    assert "UnsupportedError: ascend-gdn does not support this configuration" in process.stdout
    assert expected in process.stdout
    assert "Loading weights" not in process.stdout


def test_a_model_without_gdn_layers_is_served_as_by_vllm(tmp_path: Path):
    torch.manual_seed(0)
    model = tmp_path / "llama"
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
    )
    LlamaForCausalLM(config).save_pretrained(model)
    tiny_tokenizer(1024, 4096).save_pretrained(model)
    result = run(Job(str(model), PROMPTS, max_tokens=8), tmp_path)
    assert result.log.count("has no GDN layers; the worker behaves as vLLM's own.") == 1
    assert result.stats == {}
    reference = load_reference(model)
    for prompt, tokens, logprobs in zip(
        PROMPTS, result.tokens, result.prompt_logprobs, strict=True
    ):
        logits = reference_logits(reference, prompt, tokens)
        assert compare(logits, prompt, tokens, logprobs).failure(1e-3) is None
