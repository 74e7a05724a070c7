# SPDX-License-Identifier: Apache-2.0
"""Prefix caching with drafts on the emulated NPU: requests go on from what our Triton kernel left.

The kernel itself runs, in Triton's interpreter.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tiny_checkpoint import write_checkpoint

from .conftest import NEXT, SIZES
from .runs import OUR_WORKER, emulated_job, run_emulated
from .test_workers import NO_PROMPT_LOGPROBS, assert_same_tokens

pytestmark = [pytest.mark.engine, pytest.mark.slow]

BLOCK = 128
"""Attention's pages of as many tokens just hold a GDN state."""
ANSWER = BLOCK + 12
ENGINE = {
    "async_scheduling": True,
    "enable_prefix_caching": True,
    "mamba_cache_mode": "align",
    "scheduler_cls": "ascend_gdn.runner.align_scheduler.AlignedAsyncScheduler",
    "speculative_config": {"method": "qwen3_next_mtp", "num_speculative_tokens": 3},
    "max_num_batched_tokens": 512,
    "disable_log_stats": False,
}


def test_going_on_from_blocks_that_drafts_filled(tmp_path: Path):
    sizes = replace(SIZES, attention_kv_heads=4, attention_head_dim=128)
    model = write_checkpoint(tmp_path / "model", sizes)
    random = np.random.default_rng(3)

    def tokens(count: int) -> list[int]:
        return random.integers(3, SIZES.vocab_size, count).tolist()

    first = [tokens(2 * BLOCK - n) for n in (1, 4)]
    plain = {"worker_cls": OUR_WORKER, "max_tokens": ANSWER, "sampling": NO_PROMPT_LOGPROBS}
    answers = run_emulated(emulated_job(model, first, **plain), tmp_path / "first").tokens
    # vLLM 0.23.0 leaves the last block of a hit out, because of the drafts.
    hit = (3 if NEXT else 2) * BLOCK
    later = [
        prompt + answer[: BLOCK + 6] + tokens(3)
        for prompt, answer in zip(first, answers, strict=True)
    ]
    answers += run_emulated(emulated_job(model, later, **plain), tmp_path / "later").tokens
    known = tmp_path / "known.json"
    known.write_text(json.dumps(list(zip(first + later, answers, strict=True))))
    job = emulated_job(
        model,
        first + later,
        worker_cls="oracle_worker.OurOracleWorker",
        engine=ENGINE,
        rounds=[len(first), len(later)],
        env={"ORACLE": str(known), "TRITON_INTERPRET": "1"},
        max_tokens=ANSWER,
        sampling=NO_PROMPT_LOGPROBS,
    )
    result = run_emulated(job, tmp_path / "job")
    assert result.cached_tokens == [0] * len(first) + [hit] * len(later)
    assert result.tokens == answers
    assert result.counters["vllm:spec_decode_num_accepted_tokens"] > 0
    assert_same_tokens(model, first + later, result.tokens)
