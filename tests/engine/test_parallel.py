# SPDX-License-Identifier: Apache-2.0
"""Several workers at once: tensor parallel, data parallel with idle ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tiny_checkpoint import TinySizes, write_checkpoint

from .cpu_isa import with_python_path
from .job import Job, Result, run, run_script
from .parity import assert_equals_transformers
from .wider_cpu_platform import plugged_in

pytestmark = pytest.mark.engine

RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(3, 1024, length).tolist() for length in (2, 65, 500, 300, 1)]
ENGINE = {"max_num_batched_tokens": 128, "max_num_seqs": 4}
# Not more threads than cores in all: ranks wait for one another in a busy loop.
ENV = {"OMP_NUM_THREADS": "1"}
ASYNC_JOB = str(Path(__file__).parent / "async_job.py")


def counts(stats: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in stats.items() if name != "host_us"}


def test_tensor_parallel(small_model: Path, tmp_path: Path):
    engine = ENGINE | {"tensor_parallel_size": 2}
    result = run(Job(str(small_model), PROMPTS, max_tokens=16, engine=engine, env=ENV), tmp_path)
    assert_equals_transformers(small_model, PROMPTS, result)
    first, second = result.worker_stats
    assert first["plans_built"] == first["prefill_steps"] > 0
    assert counts(first) == counts(second)


def test_data_parallel_dummy_batches_advance_no_state(small_model: Path, tmp_path: Path):
    # The second rank is idle at first, then has two requests while the first one has its long one,
    # and another while the first one is idle.
    arrivals = [(1, 10), (0, 0), (0, 0), (1, 14), (1, 50)]
    job = Job(
        str(small_model),
        PROMPTS,
        worker_cls="changed_workers.AttentiveDummyWorker",
        max_tokens=16,
        engine=ENGINE | {"distributed_executor_backend": "uni"},
        env=ENV | plugged_in(tmp_path),
    )
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


@pytest.mark.slow
def test_data_parallel_behind_vllms_front_end(small_model: Path, tmp_path: Path):
    # Its coordinator, and an engine process with a worker process for each rank.
    ranks = [1, 0, 0, 1]
    job = Job(
        str(small_model),
        PROMPTS[1:],
        worker_cls="changed_workers.AttentiveDummyWorker",
        engine=ENGINE | {"data_parallel_size": 2},
        env=ENV | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"} | plugged_in(tmp_path),
    )
    values, _ = run_script(ASYNC_JOB, job, tmp_path, json.dumps(ranks))
    assert values.pop("dummies")[0] > 5  # of the first rank, which idles while the other goes on
    assert_equals_transformers(small_model, PROMPTS[1:], Result(**values))


@pytest.mark.slow
def test_data_parallel_of_a_dense_model(tmp_path: Path):
    # Its ranks are engines of their own: no dummy batches, and vLLM's own CPU platform serves it.
    sizes = TinySizes(family="qwen3_5", dtype="float32", layers=4, head_dim=64, experts=0)
    model = write_checkpoint(tmp_path / "model", sizes)
    job = Job(
        str(model),
        PROMPTS[1:],
        worker_cls="changed_workers.AttentiveDummyWorker",
        engine=ENGINE | {"data_parallel_size": 2, "language_model_only": True},
        env=ENV | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"} | with_python_path(Path(__file__).parent),
    )
    values, _ = run_script(ASYNC_JOB, job, tmp_path, json.dumps([1, 0, 0, 1]))
    assert values.pop("dummies") == [0]
    assert_equals_transformers(model, PROMPTS[1:], Result(**values))
