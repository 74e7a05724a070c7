# SPDX-License-Identifier: Apache-2.0
"""As tests/engine/job.py, on the emulated NPU, with what the workers say before and after.

emulated_calls_job.py JOB.json RESULT.json METHOD...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import job_path  # noqa: F401

from emulated_npu.install import install

install()

from job import collect, generate, make_llm, read_job  # noqa: E402


def main(job_file: str, result_file: str, *methods: str) -> None:
    """Write the result, and what each worker's ``methods`` return, in the order of their ranks."""
    job = read_job(job_file)
    llm = make_llm(job)
    before = {method: llm.collective_rpc(method) for method in methods}
    result = collect(llm, job, generate(llm, job))
    after = {method: llm.collective_rpc(method) for method in methods}
    values = {"result": result, "before": before, "after": after}
    Path(result_file).write_text(json.dumps(values))


if __name__ == "__main__":
    main(*sys.argv[1:])
