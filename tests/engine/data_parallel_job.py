# SPDX-License-Identifier: Apache-2.0
"""Two data-parallel ranks in lock-step, each with an engine in a process of its own.

    data_parallel_job.py JOB.json RESULT.json ARRIVALS [RANK]

ARRIVALS: JSON, for each prompt the rank it goes to and the tick it comes at. At every tick each
rank runs the model once, since the other waits for it in the MoE layers: on its requests if it has
any, else on a dummy batch. Every third tick a rank runs a dummy batch though it has requests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from job import collect, make_llm, parameters_of, read_job
from vllm.utils.network_utils import get_open_port

RANKS = 2


def run_rank(job_file: str, result_file: str, arrivals: list[list[int]], rank: int) -> None:
    job = read_job(job_file)
    llm = make_llm(job)
    engine = llm.llm_engine
    mine = {str(i): tick for i, (where, tick) in enumerate(arrivals) if where == rank}
    outputs: dict[str, Any] = {}
    idle_dummies = live_dummies = tick = 0
    # Asks the other rank as well, and so keeps the ticks together.
    while engine.has_unfinished_requests() or tick <= max(tick for _, tick in arrivals):
        for request, when in mine.items():
            if when == tick:
                prompt = {"prompt_token_ids": job.prompts[int(request)]}
                engine.add_request(request, prompt, parameters_of(job))
        has_requests = engine.output_processor.has_unfinished_requests()
        engine.should_execute_dummy_batch = False
        if has_requests and tick % 3:
            for output in engine.step():
                if output.finished:
                    outputs[output.request_id] = output
        else:
            engine.engine_core.execute_dummy_batch()
            live_dummies += has_requests
            idle_dummies += not has_requests
        tick += 1
    values = collect(llm, job, (outputs[request] for request in mine))
    values |= {"idle_dummies": idle_dummies, "live_dummies": live_dummies}
    Path(result_file).write_text(json.dumps(values))
    engine.engine_core.shutdown()


def main(job_file: str, result_file: str, arrivals: str) -> int:
    """Run both ranks; the other one cannot go on if one fails."""
    port = str(get_open_port())
    files = [f"{result_file}.{rank}" for rank in range(RANKS)]
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, job_file, files[rank], arrivals, str(rank)],
            env=os.environ
            | {
                "VLLM_DP_RANK": str(rank),
                "VLLM_DP_RANK_LOCAL": str(rank),
                "VLLM_DP_SIZE": str(RANKS),
                "VLLM_DP_MASTER_IP": "127.0.0.1",
                "VLLM_DP_MASTER_PORT": port,
            },
        )
        for rank in range(RANKS)
    ]
    while None in (codes := [rank.poll() for rank in ranks]):
        if any(codes):
            for rank in ranks:
                rank.kill()
        time.sleep(0.2)
    if any(codes):
        return 1
    Path(result_file).write_text(json.dumps([json.loads(Path(f).read_text()) for f in files]))
    return 0


if __name__ == "__main__":
    job_file, result_file, arrivals, *rank = sys.argv[1:]
    if rank:
        run_rank(job_file, result_file, json.loads(arrivals), int(rank[0]))
    else:
        sys.exit(main(job_file, result_file, arrivals))
