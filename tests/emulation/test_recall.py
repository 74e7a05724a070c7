# SPDX-License-Identifier: Apache-2.0
"""The trained model answers rightly on both workers, in bfloat16, in every mode.

In bfloat16 not even the types are changed: all that is not upstream's is under its operators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import Qwen3NextForCausalLM

import recall_task
from recall_eval import right_answers
from recall_task import LONGEST_ANSWER, Recall, held_out

from ..engine.job import Result
from .conftest import NEXT
from .runs import OUR_WORKER, emulated_job, run_emulated
from .wider_heads import write_with_wider_heads

pytestmark = pytest.mark.engine

CASES = held_out(6, (8, 64, 250, 1000))
TOKENS = sum(len(case.prompt) for case in CASES)
# A block is of 1024 tokens here, with vllm-ascend 0.30.0rc2 of 640: these go on to another one, and
# those before it can be cached.
LONGER = held_out(6, (64, 1300))
MTP = {"speculative_config": {"method": "qwen3_next_mtp", "num_speculative_tokens": 3}}
PREFIX_CACHING = {
    "enable_prefix_caching": True,
    "mamba_cache_mode": "align",
    "max_num_batched_tokens": 1024,
}


@dataclass
class Mode:
    engine: dict[str, object] = field(default_factory=dict)
    happened: Callable[[Result], bool] = lambda result: True
    """Whether the engine did what the mode is about, by what vLLM counts."""
    happened_in_ours: Callable[[Result], bool] = lambda result: True
    """The same, by what our worker counts."""
    cases: list[Recall] = field(default_factory=lambda: CASES)
    rounds: int = 1
    """How often the prompts are asked."""
    env: dict[str, str | None] = field(default_factory=dict)


def hit(result: Result) -> bool:
    return sum(result.cached_tokens[len(LONGER) :]) == 6 * (2 * 640 if NEXT else 1024)


def accepted(result: Result) -> bool:
    rate = result.counters["vllm:spec_decode_num_accepted_tokens"]
    rate /= result.counters["vllm:spec_decode_num_draft_tokens"]
    print(f"{rate:.0%} of the drafts accepted")
    return rate > 0.3


def chunked_and_mixed(result: Result) -> bool:
    """No step prefills more than 64 tokens, and prefills and decodes share steps.

    Of 16 requests side by side some decode while others prefill: apart, the answers alone would
    take as many steps without a prefill as the longest of a wave has tokens.
    """
    stats = result.stats
    print(stats)
    decodes = stats["steps"] - stats["prefill_steps"]
    return stats["prefill_steps"] >= TOKENS / 64 and 0 < decodes < LONGEST_ANSWER


MODES = {
    "plain": Mode(),
    "MTP": Mode(MTP, accepted),
    "chunked at 64, mixed": Mode(
        {"max_num_batched_tokens": 64}, happened_in_ours=chunked_and_mixed
    ),
    "prefix cache hit": Mode(PREFIX_CACHING, hit, cases=LONGER, rounds=2),
    "after preemption": Mode(
        # Prompts side by side, more than there are blocks for.
        {
            "num_gpu_blocks_override": 17,
            "scheduler_reserve_full_isl": False,
            "long_prefill_token_threshold": 64,
        },
        lambda result: result.counters["vllm:num_preemptions"] > 0,
        cases=LONGER,
    ),
    "tensor parallel": Mode(
        {"tensor_parallel_size": 2},
        happened_in_ours=lambda result: len(result.worker_stats) == 2,
        env={"OMP_NUM_THREADS": "1"},
    ),
}


@pytest.fixture(scope="module")
def recall_model(tmp_path_factory) -> Path:
    source = Path(recall_task.__file__).parent / "recall_model"
    model = write_with_wider_heads(source, tmp_path_factory.mktemp("recall") / "model")
    reference = Qwen3NextForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    assert right_answers(reference, CASES + LONGER) == 1
    return model


@pytest.mark.parametrize("name", MODES)
def test_answers_are_right(name: str, worker_cls: str, recall_model: Path, tmp_path: Path):
    mode = MODES[name]
    engine = {"max_num_batched_tokens": 512, "max_num_seqs": 16, "disable_log_stats": False}
    job = emulated_job(
        recall_model,
        [case.prompt for case in mode.cases] * mode.rounds,
        worker_cls=worker_cls,
        dtype="bfloat16",
        max_tokens=LONGEST_ANSWER,
        engine=engine | mode.engine,
        sampling={"ignore_eos": False, "prompt_logprobs": None},
        rounds=[len(mode.cases)] * mode.rounds,
        env=mode.env,
    )
    result = run_emulated(job, tmp_path)
    cases = mode.cases * mode.rounds
    right = sum(t == case.answer for t, case in zip(result.tokens, cases, strict=True))
    print(f"{name}: {right} of {len(cases)} right, {result.counters}")
    assert right == len(cases)
    assert mode.happened(result), {"counters": result.counters, "cached": result.cached_tokens}
    if worker_cls == OUR_WORKER:
        assert mode.happened_in_ours(result), result.worker_stats
