# SPDX-License-Identifier: Apache-2.0
"""Ray as the executor: its processes find our worker by name, and run it as others do."""

from __future__ import annotations

import secrets
from pathlib import Path

import numpy as np
import pytest

from .job import Job, run
from .parity import assert_equals_transformers
from .wider_cpu_platform import plugged_in

pytestmark = pytest.mark.engine

RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(3, 1024, length).tolist() for length in (2, 65, 300, 1)]
RAY_JOB = str(Path(__file__).parent / "ray_job.py")


def ray_job(model: Path, folder: Path) -> Job:
    engine = {
        "max_num_batched_tokens": 128,
        "max_num_seqs": 4,
        "tensor_parallel_size": 2,
        "distributed_executor_backend": "ray",
    }
    env = {
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray puts one into the home folder
    }
    return Job(str(model), PROMPTS, max_tokens=16, engine=engine, env=env | plugged_in(folder))


def test_workers_in_ray(small_model: Path, tmp_path: Path):
    result = run(ray_job(small_model, tmp_path), tmp_path, script=RAY_JOB)
    assert result.log.count("RayWorkerProc pid=") > 0
    assert_equals_transformers(small_model, PROMPTS, result)
    first, second = result.worker_stats
    for stats in (first, second):
        del stats["host_us"]
    assert first == second
    assert first["plans_built"] == first["prefill_steps"] > 0
