# SPDX-License-Identifier: Apache-2.0
"""Verify mode in the real engine: the same answers, and a fault ends it with a record to replay."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from ascend_gdn.attention.step_record import StepRecord

from .job import OUR_WORKER, Job, run, start

pytestmark = pytest.mark.engine

MTP = {"speculative_config": {"method": "qwen3_next_mtp", "num_speculative_tokens": 3}}
ALIGN = {
    "enable_prefix_caching": True,
    "mamba_cache_mode": "align",
    "scheduler_cls": "ascend_gdn.runner.align_scheduler.AlignedScheduler",
}


def job(model: Path, worker: str, folder: Path | None, **engine: object) -> Job:
    random.seed(1)
    lengths = (1, 2, 64, 65, 300, 7, 130, 1)
    prompts = [[random.randrange(3, 200) for _ in range(length)] for length in lengths]
    if folder:
        ours = {"verify": True, "verify_dumps": str(folder)}
        engine["additional_config"] = {"ascend_gdn": ours}
    # Budgets that cut drafts and prompts.
    engine = {"max_num_seqs": 6, "max_num_batched_tokens": 140} | engine
    return Job(str(model), prompts, worker_cls=worker, engine=engine, max_tokens=20)


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param({}, id="plain", marks=pytest.mark.slow),
        pytest.param(MTP, id="MTP"),
        pytest.param(MTP | ALIGN, id="MTP, prefix caching", marks=pytest.mark.slow),
    ],
)
def test_the_same_answers(engine, small_model: Path, tmp_path: Path):
    plain = run(job(small_model, OUR_WORKER, None, **engine), tmp_path)
    dumps = tmp_path / "dumps"
    dumps.mkdir()
    verified = run(job(small_model, OUR_WORKER, dumps, **engine), tmp_path)
    assert verified.tokens == plain.tokens
    assert verified.prompt_logprobs == plain.prompt_logprobs
    assert "verify mode" in verified.log
    assert list(dumps.iterdir()) == []


def test_a_fault_ends_the_engine_and_leaves_a_record(small_model: Path, tmp_path: Path):
    process = start(job(small_model, "changed_workers.FlippingWorker", tmp_path), tmp_path)
    assert process.returncode != 0
    assert "GDNContractError: GDN prefill contract broken at verify mode: state_indices[0][0]" in (
        process.stdout
    )
    path = Path(re.search(r"ascend-gdn explain --replay (\S+)", process.stdout)[1])
    assert path.parent == tmp_path
    assert StepRecord.from_json(path.read_text()).query_start_loc[0] == 0
