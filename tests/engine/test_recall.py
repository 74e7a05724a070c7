# SPDX-License-Identifier: Apache-2.0
"""The trained model answers rightly in every mode of the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import Qwen3NextForCausalLM

import recall_task
from recall_eval import right_answers
from recall_task import LONGEST_ANSWER, held_out

from .job import Job, Result, run
from .test_ray import RAY_JOB
from .wider_cpu_platform import plugged_in

pytestmark = pytest.mark.engine

MODEL = Path(recall_task.__file__).parent / "recall_model"
CASES = held_out(20, (8, 64, 250, 1000, 2000))
TWO_RANKS = {"tensor_parallel_size": 2}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
MTP = {"speculative_config": {"method": "qwen3_next_mtp", "num_speculative_tokens": 3}}
PREFIX_CACHING = {
    "enable_prefix_caching": True,
    "mamba_cache_mode": "align",
    "scheduler_cls": "ascend_gdn.runner.align_scheduler.AlignedScheduler",
}


@dataclass
class Mode:
    engine: dict[str, object] = field(default_factory=dict)
    env: dict[str, str | None] = field(default_factory=dict)
    happened: Callable[[Result], bool] = lambda result: True
    """Whether the engine did what the mode is about."""
    rounds: int = 1
    """How often the prompts are asked."""
    script: str | None = None


def hit(result: Result) -> bool:
    return sum(result.cached_tokens[len(CASES) :]) > 20 * 1000


def accepted(result: Result) -> bool:
    counters = result.counters
    rate = counters["vllm:spec_decode_num_accepted_tokens"]
    rate /= counters["vllm:spec_decode_num_draft_tokens"]
    print(f"MTP: {rate:.0%} of the drafts accepted")
    return rate > 0.3


MODES = {
    "plain": Mode(),
    "chunked at 64": Mode(
        {"max_num_batched_tokens": 64},
        happened=lambda result: result.stats["prefill_steps"] > 20 * 3322 / 64,
    ),
    "MTP": Mode(MTP, happened=accepted),
    "prefix cache hit": Mode(PREFIX_CACHING, happened=hit, rounds=2),
    "prefix cache hit with MTP": Mode(
        PREFIX_CACHING | MTP, happened=lambda result: hit(result) and accepted(result), rounds=2
    ),
    "after preemption": Mode(
        # Prompts side by side, more than there are blocks for.
        {
            "num_gpu_blocks_override": 80,
            "scheduler_reserve_full_isl": False,
            "long_prefill_token_threshold": 64,
        },
        happened=lambda result: result.counters["vllm:num_preemptions"] > 5,
    ),
    "tensor parallel": Mode(
        TWO_RANKS, ONE_THREAD, happened=lambda result: len(result.worker_stats) == 2
    ),
    "Ray": Mode(
        TWO_RANKS | {"distributed_executor_backend": "ray"},
        ONE_THREAD,
        happened=lambda result: "RayWorkerProc pid=" in result.log,
        script=RAY_JOB,
    ),
    "compiled": Mode(
        {"enforce_eager": False},
        {"TORCH_COMPILE_DISABLE": None},
        happened=lambda result: "saved AOT compiled function" in result.log,
    ),
}


@pytest.fixture(scope="module")
def reference() -> float:
    """Accuracy of Hugging Face transformers."""
    model = Qwen3NextForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    return right_answers(model, CASES)


SLOW = {
    # Included in "prefix cache hit with MTP".
    "plain",
    "prefix cache hit",
    # Every token and logprob of a run in float32 is compared instead: test_parallel.py, test_ray.py
    # and test_compiled.py.
    "tensor parallel",
    "Ray",
    "compiled",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MODES],
)
def test_answers_are_right(name: str, reference: float, tmp_path: Path):
    mode, env = MODES[name], {}
    if mode.script:
        env = plugged_in(tmp_path)
    if name == "compiled":
        env = {
            "VLLM_CACHE_ROOT": str(tmp_path / "vllm"),
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        }
    engine = {"max_num_seqs": 16, "max_num_batched_tokens": 512, "disable_log_stats": False}
    job = Job(
        str(MODEL),
        [case.prompt for case in CASES] * mode.rounds,
        max_tokens=LONGEST_ANSWER,
        engine=engine | mode.engine,
        env=mode.env | env,
        sampling={"ignore_eos": False, "prompt_logprobs": None},
        rounds=[len(CASES)] * mode.rounds,
    )
    result = run(job, tmp_path, **({"script": mode.script} if mode.script else {}))
    right = [
        tokens == case.answer
        for tokens, case in zip(result.tokens, CASES * mode.rounds, strict=True)
    ]
    accuracy = sum(right) / len(right)
    print(f"{name}: {accuracy:.1%} right, transformers {reference:.1%}")
    assert reference >= 0.95
    assert abs(accuracy - reference) <= 0.005
    assert mode.happened(result), {"stats": result.stats, "counters": result.counters}
