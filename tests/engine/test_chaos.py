# SPDX-License-Identifier: Apache-2.0
"""Random arrivals, aborts and priorities under a small KV cache: no answer may be wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from recall_task import END, HELD_OUT_SEED, QUESTION_MARK, tell

from .chaos import Options, Report
from .job import ENVIRONMENT
from .processes import run_to_the_end
from .test_recall import MODEL, MTP, PREFIX_CACHING

pytestmark = pytest.mark.engine

ENGINE = {
    "dtype": "float32",
    "worker_cls": "ascend_gdn.runner.CPUWorker",
    "enforce_eager": True,
    "mamba_ssm_cache_dtype": "float32",
    "max_model_len": 2048,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 768,
    # Prompts are worked off side by side, a block a step, and none is held back for want of the
    # blocks that it will need: so they run out of them.
    "long_prefill_token_threshold": 128,
    "num_gpu_blocks_override": 72,
    "scheduler_reserve_full_isl": False,
    **PREFIX_CACHING,
    **MTP,
}


def families(count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Prompts and answers: some stories, each with a question for every one of its chains.

    The questions of a story share a prefix; the model has seen none of the stories.
    """
    rng = np.random.default_rng([HELD_OUT_SEED, seed])
    known = []
    for _ in range(count):
        story = tell(rng, int(np.exp2(rng.uniform(4, 10.5))))
        for start, *answer in story.chains:
            known.append(([*story.tokens, QUESTION_MARK, start], [*answer, END]))
    return known


def run_chaos(folder: Path, timeout: float, **options) -> Report:
    (folder / "options.json").write_text(
        json.dumps(asdict(Options(str(MODEL), families(24, seed=0), engine=ENGINE, **options)))
    )
    script = str(Path(__file__).with_name("chaos.py"))
    command = [sys.executable, script, str(folder / "options.json"), str(folder / "report.json")]
    process: subprocess.CompletedProcess[str] = run_to_the_end(
        command, ENVIRONMENT, folder, timeout
    )
    assert process.returncode == 0, f"the engine failed:\n{process.stdout[-6000:]}"
    return Report(**json.loads((folder / "report.json").read_text()))


@pytest.mark.parametrize(
    "requests", [80, pytest.param(600, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])]
)
def test_no_answer_is_wrong(requests: int, tmp_path: Path):
    report = run_chaos(tmp_path, timeout=2900, requests=requests, seed=requests)
    print(f"{report.finished} finished, {report.aborted} aborted, {report.preemptions} preempted, "
          f"{report.cached_tokens} cached tokens, {report.accepted} of {report.drafts} drafts "
          f"accepted; {report.stats}")  # fmt: skip
    assert report.finished + report.aborted == requests
    assert report.wrong == []
    assert report.leaked_blocks == 0
    # It was chaos.
    assert report.aborted > requests / 100
    assert report.preemptions > 0
    assert report.cached_tokens > 0
    assert report.accepted > report.drafts / 4
    assert len({pools for _, _, pools in report.samples}) == 1


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_memory_stays_flat_for_20_minutes(tmp_path: Path):
    # The first requests fill caches, and the allocator's free lists.
    warm_up = 1500
    report = run_chaos(tmp_path, timeout=2900, requests=warm_up, minutes=20, seed=1)
    resident = np.array([size for sent, size, _ in report.samples if sent > warm_up]) / 2**20
    early, _, late = (part.mean() for part in np.array_split(resident, 3))
    print(f"{report.finished} finished, {report.preemptions} preempted, {len(report.wrong)} wrong; "
          f"resident MiB: first third {early:.0f}, last {late:.0f}; {report.stats}")  # fmt: skip
    assert report.wrong == []
    assert report.leaked_blocks == 0
    assert late < 1.02 * early
    assert len({pools for _, _, pools in report.samples}) == 1
