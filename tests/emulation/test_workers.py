# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend's own worker and ours on the emulated NPU, against Hugging Face transformers.

With the stock worker everything is upstream's: what fails there is a fault of the emulation, or
theirs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from demo_reference import load_reference, reference_logits
from tiny_checkpoint import write_checkpoint

from ..engine.parity import assert_equals_transformers
from .conftest import NEXT, SIZES
from .runs import OUR_WORKER, STOCK_WORKER, emulated_job, run_emulated

pytestmark = pytest.mark.engine

COUNTED = {"disable_log_stats": False}
NO_PROMPT_LOGPROBS = {"prompt_logprobs": None}
"""They would keep a prompt from being looked up in the prefix cache."""


def random_prompts(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(3, SIZES.vocab_size, length).tolist() for length in lengths]


@pytest.mark.skipif(not NEXT, reason="vllm-ascend 0.23.0 has the stages alone")
@pytest.mark.parametrize("prefill", ["staged", "cann"])
def test_without_the_fused_operator_of_fla_npu(
    prefill: str, model: Path, prompts: list[list[int]], tmp_path: Path
):
    """By the stages, over all six tables, or by CANN's operator, which is tried out at start-up."""
    job = emulated_job(
        model,
        prompts,
        worker_cls=OUR_WORKER,
        engine={"max_num_batched_tokens": 512, "max_num_seqs": 8},
        env={"EMULATED_NPU_PREFILL": prefill},
    )
    result = run_emulated(job, tmp_path)
    assert_equals_transformers(model, prompts, result)


@pytest.mark.parametrize("budget", [512, 64])
def test_chunked_prefill(
    budget: int, worker_cls: str, model: Path, prompts: list[list[int]], tmp_path: Path
):
    engine = {"max_num_batched_tokens": budget, "max_num_seqs": 8}
    result = run_emulated(
        emulated_job(model, prompts, worker_cls=worker_cls, engine=engine), tmp_path
    )
    assert_equals_transformers(model, prompts, result)
    if worker_cls == OUR_WORKER:
        stats = result.stats
        assert 0 < stats["plans_built"] == stats["prefill_steps"] < stats["steps"]
        assert stats["plans_reused"] == 2 * stats["plans_built"]  # three groups


def test_prefix_caching(worker_cls: str, model: Path, tmp_path: Path):
    common, *rests, other = random_prompts(700, 30, 100, 1, 64, 300, 50)
    prompts = [common + rest for rest in rests] + [other]
    engine = {
        "enable_prefix_caching": True,
        "mamba_cache_mode": "align",
        "max_num_batched_tokens": 1024,
    }
    job = emulated_job(
        model,
        prompts,
        worker_cls=worker_cls,
        engine=engine,
        sampling=NO_PROMPT_LOGPROBS,
        rounds=[3, 3],
    )
    result = run_emulated(job, tmp_path)
    assert_same_tokens(model, prompts, result.tokens)
    assert sum(cached > 0 for cached in result.cached_tokens) >= 2


def test_preemption(worker_cls: str, model: Path, tmp_path: Path):
    # Answers that leave their last block of attention, of as many tokens.
    block = 384 if NEXT else 512
    prompts = random_prompts(*(block - rest for rest in (32, 22, 12, 7)))
    engine = COUNTED | {
        "num_gpu_blocks_override": 14,
        "max_num_batched_tokens": 512,
        "max_model_len": 1024,
    }
    job = emulated_job(
        model,
        prompts,
        worker_cls=worker_cls,
        engine=engine,
        sampling=NO_PROMPT_LOGPROBS,
        max_tokens=48,
    )
    result = run_emulated(job, tmp_path)
    assert_same_tokens(model, prompts, result.tokens)
    assert result.counters["vllm:num_preemptions"] > 0


def test_two_ranks(worker_cls: str, model: Path, tmp_path: Path):
    prompts = random_prompts(2, 65, 200, 500, 1)
    engine = {"tensor_parallel_size": 2, "max_num_batched_tokens": 128}
    env = {"OMP_NUM_THREADS": "1"}
    result = run_emulated(
        emulated_job(model, prompts, worker_cls=worker_cls, engine=engine, env=env), tmp_path
    )
    assert_equals_transformers(model, prompts, result)


def test_two_decode_context_parallel_ranks(worker_cls: str, tmp_path: Path):
    """Ranks share out the tokens of attention's cache, of which the GDN layers know nothing."""
    if NEXT and worker_cls == STOCK_WORKER:
        pytest.skip("vllm-ascend 0.30.0rc2 packs attention's outputs by a kernel on an NPU alone")
    # vLLM asks for more ranks than key/value heads.
    model = write_checkpoint(tmp_path / "model", replace(SIZES, attention_kv_heads=1))
    prompts = random_prompts(2, 65, 200, 500, 1)
    engine = {
        "tensor_parallel_size": 2,
        "decode_context_parallel_size": 2,
        "max_num_batched_tokens": 128,
    }
    env = {"OMP_NUM_THREADS": "1"}
    job = emulated_job(model, prompts, worker_cls=worker_cls, engine=engine, env=env)
    if NEXT:
        with pytest.raises(AssertionError, match="got --decode-context-parallel-size 2"):
            run_emulated(job, tmp_path)
        return
    result = run_emulated(job, tmp_path)
    assert_equals_transformers(model, prompts, result)


def context_parallel(model: Path, prompts: list[list[int]], budget: int, worker_cls: str):
    engine = {"prefill_context_parallel_size": 2, "max_num_batched_tokens": budget}
    return emulated_job(
        model,
        prompts,
        worker_cls=worker_cls,
        engine=engine,
        env={"OMP_NUM_THREADS": "1"},
        sampling=NO_PROMPT_LOGPROBS,
    )


def test_two_context_parallel_ranks(worker_cls: str, model: Path, tmp_path: Path):
    if NEXT:
        assert_context_parallelism_is_refused(model, worker_cls, tmp_path)
        return
    prompts = random_prompts(200, 65, 64, 128, 129)
    result = run_emulated(context_parallel(model, prompts, 1024, worker_cls), tmp_path)
    assert_same_tokens(model, prompts, result.tokens)


def test_context_parallel_parts_of_a_few_tokens(
    worker_cls: str, model: Path, tmp_path: Path, request
):
    """Chunks in mixed batches, and a prompt of which one rank has a single token."""
    if NEXT:
        assert_context_parallelism_is_refused(model, worker_cls, tmp_path)
        return
    if worker_cls == STOCK_WORKER:  # tests/emulation/test_context_parallel_layer.py says why
        reason = "vllm-ascend 0.23.0 loses what other ranks have of the prompt of 3 tokens"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    prompts = random_prompts(500, 65, 200, 3, 7, 300)
    result = run_emulated(context_parallel(model, prompts, 128, worker_cls), tmp_path)
    assert_same_tokens(model, prompts, result.tokens)
    for stats in result.worker_stats:
        assert 0 < stats["plans_built"] == stats["prefill_steps"] < stats["steps"]
        assert stats["plans_reused"] == 2 * stats["plans_built"]


def assert_context_parallelism_is_refused(model: Path, worker_cls: str, folder: Path) -> None:
    """From 0.30.0rc2 on vllm-ascend's V1 runner has none."""
    with pytest.raises(AssertionError, match=r"PCP .* is not supported by vLLM Ascend"):
        run_emulated(context_parallel(model, [[1, 2]], 128, worker_cls), folder)


@pytest.mark.parametrize("method", ["mtp", "ngram"])
def test_speculative(method: str, worker_cls: str, model: Path, tmp_path: Path, request):
    """A random MTP layer guesses wrongly; an n-gram that has come before, at times rightly."""
    if method == "ngram" and worker_cls == STOCK_WORKER:
        # Not every request has an n-gram that has come before: docs/ascend.md, "What it changes".
        reason = "vllm-ascend takes other states for requests with unequally many drafts"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    if method == "mtp":
        speculative = {"method": "qwen3_next_mtp", "num_speculative_tokens": 3}
    else:
        speculative = {
            "method": "ngram",
            "num_speculative_tokens": 3,
            "prompt_lookup_max": 2,
            "prompt_lookup_min": 1,
        }
    prompts = random_prompts(2, 65, 200, 500, 1)
    engine = COUNTED | {"speculative_config": speculative, "max_num_batched_tokens": 256}
    result = run_emulated(
        emulated_job(model, prompts, worker_cls=worker_cls, engine=engine, max_tokens=64), tmp_path
    )
    assert_equals_transformers(model, prompts, result)
    accepted = result.counters["vllm:spec_decode_num_accepted_tokens"]
    drafted = result.counters["vllm:spec_decode_num_draft_tokens"]
    print(f"{method}: {accepted:.0f} of {drafted:.0f} drafts accepted")
    assert drafted > 0
    assert accepted > 0 or method == "mtp"


def test_prompts_of_one_token_beside_drafts(worker_cls: str, model: Path, tmp_path: Path, request):
    """They come to blocks that others have left, while all that run verify drafts."""
    if NEXT and worker_cls == STOCK_WORKER:  # runner/upstream/padded_prompts.py says why
        reason = "vLLM 0.30.0 pads them with drafts: they go on from the states of others"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    prompts = random_prompts(20, 150, 300, 1, 1, 40, 1, 22, 1, 1, 18, 1)
    engine = {
        "speculative_config": {"method": "qwen3_next_mtp", "num_speculative_tokens": 3},
        "max_num_seqs": 3,
        "max_num_batched_tokens": 64,  # so that they end one after the other
        "num_gpu_blocks_override": 41,
    }
    job = emulated_job(
        model,
        prompts,
        worker_cls=worker_cls,
        engine=engine,
        max_tokens=20,
        sampling=NO_PROMPT_LOGPROBS,
    )
    assert_same_tokens(model, prompts, run_emulated(job, tmp_path).tokens)


def assert_same_tokens(model: Path, prompts: list[list[int]], answers: list[list[int]]) -> None:
    """As ``assert_equals_transformers``, without the prompts' logprobs."""
    reference = load_reference(model)
    for prompt, answer in zip(prompts, answers, strict=True):
        logits = reference_logits(reference, prompt, answer)
        assert logits[len(prompt) - 1 :].argmax(-1).tolist() == answer
