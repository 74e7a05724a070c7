# SPDX-License-Identifier: Apache-2.0
"""Requests of random lengths, a few more at each step, and whatever Triton compiles for them.

    lengths_job.py JOB.json RESULT.json STEPS

The job's prompts are not used. The result has ``compiled``, the names of the kernels that were made
ready after the start, from the disk or anew, and ``slowest``: milliseconds of the slowest steps,
tokens of their batches, and what was compiled in them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from job import make_llm, read_job
from triton import knobs
from vllm import SamplingParams

SAMPLING: tuple[dict[str, object], ...] = (
    {"temperature": 0},
    {},
    {"top_p": 0.9},
    {"top_k": 30},
    {"top_k": 20, "top_p": 0.8, "temperature": 0.7},
)


def main(job_file: str, result_file: str, steps: str) -> None:
    llm = make_llm(read_job(job_file))
    engine, rng = llm.llm_engine, np.random.default_rng(0)
    scheduler = engine.engine_core.engine_core.scheduler
    longest = llm.model_config.max_model_len - 40
    compiled: list[str] = []
    taken: list[tuple[float, int, list[str]]] = []
    knobs.compilation.listener = lambda src, **_: compiled.append(src.name)
    for step in range(int(steps)):
        for each in range(rng.choice([0, 1, 1, 1, 2, 5, 20])):
            length = int(np.exp2(rng.uniform(0, np.log2(longest))))  # short as often as long
            sampling = SamplingParams(
                max_tokens=int(rng.integers(1, 30)),
                ignore_eos=True,
                **SAMPLING[rng.integers(len(SAMPLING))],
            )
            prompt = {"prompt_token_ids": rng.integers(3, 100, length).tolist()}
            engine.add_request(f"{step}-{each}", prompt, sampling)
        before, started = len(compiled), time.perf_counter()
        engine.step()
        taken.append(((time.perf_counter() - started) * 1e3, step, compiled[before:]))
        # As a quiet minute would, now and then.
        while step % 20 == 19 and engine.has_unfinished_requests():
            engine.step()
    assert scheduler.get_num_unfinished_requests() == 0
    result = {"compiled": compiled, "slowest": sorted(taken, reverse=True)[:10]}
    Path(result_file).write_text(json.dumps(result))
    engine.engine_core.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
