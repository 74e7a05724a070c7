# SPDX-License-Identifier: Apache-2.0
"""Engines with one token budget after another, and one whose scheduler is given many.

    budgets_job.py JOB.json RESULT.json PLAN

PLAN, in JSON: ``started``, budgets to start an engine with, for all prompts; ``set``, budgets to
give the scheduler of one engine, for the ``few`` first prompts; ``drawn``, seeds of budgets from 1
up that change at every step of it, for all prompts. The result has a list for each, and
``returned``: how often those of ``drawn`` left a running request out and went on with it later.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from job import Job, collect, generate, make_llm, parameters_of, read_job
from vllm.distributed import cleanup_dist_env_and_memory

if TYPE_CHECKING:
    from vllm import LLM

LARGEST = 4096


def with_budget(job: Job, budget: int) -> Job:
    return replace(job, engine=job.engine | {"max_num_batched_tokens": budget})


def shut_down(llm: LLM) -> None:
    """Make room for the next engine in this process."""
    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()


def run_started(job: Job) -> dict[str, Any]:
    llm = make_llm(job)
    values = collect(llm, job, generate(llm, job))
    shut_down(llm)
    return values


def run_stepped(
    llm: LLM, job: Job, budgets: Iterator[int], returns: list[int] | None = None
) -> dict[str, Any]:
    """What the running engine answers if each step may schedule the next of ``budgets``.

    To ``returns`` each step adds how many requests it schedules that were running but left out of
    the one before.
    """
    engine = llm.llm_engine
    scheduler = engine.engine_core.engine_core.scheduler
    for i, prompt in enumerate(job.prompts):
        engine.add_request(str(i), {"prompt_token_ids": prompt}, parameters_of(job))
    outputs, left_out = {}, set[str]()
    while engine.has_unfinished_requests():
        # What the scheduler takes from max_num_batched_tokens (v1/core/sched/scheduler.py, 0.23.0).
        scheduler.max_num_scheduled_tokens = next(budgets)
        for output in engine.step():
            if output.finished:
                outputs[int(output.request_id)] = output
        scheduled = scheduler.prev_step_scheduled_req_ids
        if returns is not None:
            returns.append(len(left_out & scheduled))
        left_out = {request.request_id for request in scheduler.running} - scheduled
    return collect(llm, job, (outputs[i] for i in sorted(outputs)))


def draw(seed: int) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    while True:  # small ones as often as large ones
        yield int(np.exp2(rng.uniform(0, 9)))


def main(job_file: str, result_file: str, plan_text: str) -> None:
    job, plan = read_job(job_file), json.loads(plan_text)
    started = [run_started(with_budget(job, budget)) for budget in plan["started"]]
    llm = make_llm(with_budget(job, LARGEST))
    few = replace(job, prompts=job.prompts[: plan["few"]])
    returns: list[int] = []
    result = {
        "started": started,
        "set": [run_stepped(llm, few, repeat(budget)) for budget in plan["set"]],
        "drawn": [run_stepped(llm, job, draw(seed), returns) for seed in plan["drawn"]],
        "returned": sum(returns),
    }
    Path(result_file).write_text(json.dumps(result))
    shut_down(llm)


if __name__ == "__main__":
    main(*sys.argv[1:])
