# SPDX-License-Identifier: Apache-2.0
"""Several workers at once: tensor parallel, data parallel with idle ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from .job import Job, Result, run, run_script
from .parity import assert_equals_transformers
from .wider_cpu_platform import plugged_in

pytestmark = pytest.mark.engine

RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(3, 1024, length).tolist() for length in (2, 65, 500, 300, 1)]
ENGINE = {"max_num_batched_tokens": 128, "max_num_seqs": 4}
# Not more threads than cores in all: ranks wait for one another in a busy loop.
ENV = {"OMP_NUM_THREADS": "1"}


def counts(stats: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in stats.items() if name != "host_us"}


def test_tensor_parallel(small_model: Path, tmp_path: Path):
    engine = ENGINE | {"tensor_parallel_size": 2}
    result = run(Job(str(small_model), PROMPTS, engine=engine, env=ENV), tmp_path)
    assert_equals_transformers(small_model, PROMPTS, result)
    first, second = result.worker_stats
    assert first["plans_built"] == first["prefill_steps"] > 0
    assert counts(first) == counts(second)


def test_data_parallel_dummy_batches_advance_no_state(small_model: Path, tmp_path: Path):
    # The second rank is idle at first, then has a request while the first one has its long one, and
    # another while the first one is idle.
    arrivals = [(1, 10), (0, 0), (0, 0), (1, 14), (1, 70)]
    engine = ENGINE | {"distributed_executor_backend": "uni"}
    job = Job(str(small_model), PROMPTS, engine=engine, env=ENV | plugged_in(tmp_path))
    ranks, _ = run_script(
        str(Path(__file__).parent / "data_parallel_job.py"), job, tmp_path, json.dumps(arrivals)
    )
    for rank, values in enumerate(ranks):
        assert values.pop("idle_dummies") > 5
        assert values.pop("live_dummies") > 5
        prompts = [
            prompt for prompt, (where, _) in zip(PROMPTS, arrivals, strict=True) if where == rank
        ]
        result = Result(**values)
        assert_equals_transformers(small_model, prompts, result)
        assert result.stats["plans_built"] == result.stats["prefill_steps"] > 0
