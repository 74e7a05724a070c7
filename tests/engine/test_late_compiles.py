# SPDX-License-Identifier: Apache-2.0
"""Steps of requests that nobody sent, before the first that somebody did: as if they had not been.

A GPU's worker runs them; on a CPU there is a reference to compare with.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from .job import OUR_WORKER, Job, Result, run

pytestmark = pytest.mark.engine

MTP = {"speculative_config": {"method": "qwen3_next_mtp", "num_speculative_tokens": 3}}
ALIGN = {
    "enable_prefix_caching": True,
    "mamba_cache_mode": "align",
    "scheduler_cls": "ascend_gdn.runner.align_scheduler.AlignedScheduler",
}
SMALL = {"max_num_seqs": 5, "max_num_batched_tokens": 70, "max_model_len": 300}


def answers(model: Path, folder: Path, worker: str, engine: dict[str, object]) -> Result:
    random.seed(0)
    prompts = [[random.randrange(3, 200) for _ in range(length)] for length in (1, 2, 70, 200)]
    job = Job(str(model), prompts, worker_cls=worker, engine=engine, max_tokens=12)
    return run(job, folder)


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(
            {"max_num_seqs": 24, "max_num_batched_tokens": 512}, id="plain", marks=pytest.mark.slow
        ),
        pytest.param(SMALL | MTP | {"async_scheduling": True}, id="MTP, asynchronous"),
        pytest.param(
            SMALL | MTP | ALIGN | {"max_num_batched_tokens": 130},
            id="MTP, prefix caching",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"max_num_seqs": 1, "max_num_batched_tokens": 16},
            id="one at a time",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_they_leave_nothing_behind(engine, small_model: Path, tmp_path: Path):
    plain = answers(small_model, tmp_path, OUR_WORKER, engine)
    found = answers(small_model, tmp_path, "changed_workers.MadeUpRequestsWorker", engine)
    assert int(re.search(r"ran (\d+) steps of made-up", found.log)[1]) > 50
    assert found.tokens == plain.tokens
    assert found.prompt_logprobs == plain.prompt_logprobs
    measured = {"host_us", "slot_waits"}
    for name in plain.stats.keys() - measured:
        assert found.stats[name] == plain.stats[name], name
