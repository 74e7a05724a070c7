# SPDX-License-Identifier: Apache-2.0
"""What is compiled when: Triton launches up to the first request, and up to its end; each worker's.

emulated_first_request_job.py JOB.json RESULT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "engine"))
from emulated_npu.install import install

install()

from job import collect, generate, make_llm, read_job  # noqa: E402


def main(job_file: str, result_file: str) -> None:
    job = read_job(job_file)
    llm = make_llm(job)
    started, written = llm.collective_rpc("launched"), llm.collective_rpc("written_blocks")
    outputs = generate(llm, job)
    values = {
        "started": started,
        "written": written,
        "answered": llm.collective_rpc("launched"),
        "result": collect(llm, job, outputs),
    }
    Path(result_file).write_text(json.dumps(values))


if __name__ == "__main__":
    main(*sys.argv[1:])
