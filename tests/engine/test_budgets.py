# SPDX-License-Identifier: Apache-2.0
"""Chunked prefill with every token budget."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from .job import Job, Result, run_script
from .parity import assert_equals_transformers

pytestmark = pytest.mark.engine

RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(3, 1024, length).tolist() for length in (2, 130, 65, 1, 700, 300)]
FEW = 4
TOKENS_OF_FEW = sum(len(prompt) for prompt in PROMPTS[:FEW])

STARTED = (16, 64, 65, 100, 128, 192, 257, 512, 1024, 4096)
# With more than that the few prompts are one step, whatever the budget.
EVERY = range(64, TOKENS_OF_FEW + 1)
SEEDS = range(10)


def test_every_budget(small_model: Path, tmp_path: Path):
    job = Job(
        str(small_model),
        PROMPTS,
        max_tokens=4,
        engine={
            "max_num_seqs": 4,
            "enable_prefix_caching": False,
            "kv_cache_memory_bytes": 2**26,
        },
        env={"VLLM_CPU_KVCACHE_SPACE": None, "OMP_NUM_THREADS": "1"},
    )
    plan = {"started": list(STARTED), "set": list(EVERY), "drawn": list(SEEDS), "few": FEW}
    script = str(Path(__file__).parent / "budgets_job.py")
    values, log = run_script(script, job, tmp_path, json.dumps(plan))
    started, every, drawn = (
        [Result(**each) for each in values[name]] for name in ("started", "set", "drawn")
    )
    assert_equals_transformers(small_model, PROMPTS, *started, *drawn)
    assert_equals_transformers(small_model, PROMPTS[:FEW], *every)

    for budget, result in zip(STARTED, started, strict=True):
        assert f"Chunked prefill is enabled with max_num_batched_tokens={budget}." in log
        steps = sum(len(prompt) for prompt in PROMPTS) / budget
        assert result.stats["plans_built"] == result.stats["prefill_steps"] >= steps
    # A smaller budget takes more steps: the scheduler did obey the one it was given.
    steps = np.diff([0] + [result.stats["steps"] for result in every])
    assert (np.diff(steps) <= 0).all()
    assert steps[0] > steps[-1] == 4
