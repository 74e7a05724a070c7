# SPDX-License-Identifier: Apache-2.0
"""Requests with drafts that sit steps out, for want of a token budget, go on as if they had not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from demo_reference import load_reference

from ..engine.job import run_script
from .runs import emulated_job

pytestmark = pytest.mark.engine

ORACLE_WORKER = "oracle_worker.OurOracleWorker"
MTP = {"speculative_config": {"method": "qwen3_next_mtp", "num_speculative_tokens": 3}}
MAX_TOKENS = 24


@pytest.mark.parametrize("async_scheduling", [False, True], ids=["sync", "async"])
def test_drawn_budgets(
    async_scheduling: bool, model: Path, prompts: list[list[int]], tmp_path: Path
):
    prompts = [prompt for prompt in prompts if len(prompt) <= 200]
    reference = load_reference(model)
    answers = [
        reference.generate(
            torch.tensor([prompt]), max_new_tokens=MAX_TOKENS, do_sample=False, eos_token_id=None
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    known = tmp_path / "known.json"
    known.write_text(json.dumps(list(zip(prompts, answers, strict=True))))
    job = emulated_job(
        model,
        prompts,
        worker_cls=ORACLE_WORKER,
        max_tokens=MAX_TOKENS,
        engine=MTP
        | {"max_num_seqs": 8, "async_scheduling": async_scheduling, "disable_log_stats": False},
        sampling={"prompt_logprobs": None},
        env={"EMULATED_NPU_WIDE": "1", "ORACLE": str(known)},
    )
    plan = {"started": [], "set": [], "drawn": [0, 1, 2], "few": 0}
    script = str(Path(__file__).parent / "emulated_budgets_job.py")
    values, log = run_script(script, job, tmp_path, json.dumps(plan))
    accepted = values["drawn"][-1]["counters"]["vllm:spec_decode_num_accepted_tokens"]
    print(f"{values['returned']} times a request returned, {accepted:.0f} drafts accepted")
    if "Asynchronous scheduling is" in log:  # vLLM 0.30.0 does not say
        assert f"scheduling is {'enabled' if async_scheduling else 'disabled'}" in log
    assert values["returned"] > 0
    assert accepted > 0
    for result in values["drawn"]:
        assert result["tokens"] == answers
