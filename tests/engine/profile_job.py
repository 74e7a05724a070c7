# SPDX-License-Identifier: Apache-2.0
"""An engine under torch's profiler: which ranges of ours it saw, and how often.

profile_job.py JOB.json RESULT.json
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from job import generate, make_llm, read_job
from torch.profiler import ProfilerActivity, profile


def main(job_file: str, result_file: str) -> None:
    job = read_job(job_file)
    llm = make_llm(job)
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        generate(llm, job)
    seen = Counter(event.name for event in trace.events() if event.name.startswith("gdn."))
    Path(result_file).write_text(json.dumps([seen, llm.collective_rpc("gdn_stats")[0]]))
    llm.llm_engine.engine_core.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
