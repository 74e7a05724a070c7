# SPDX-License-Identifier: Apache-2.0
"""As tests/engine/job.py, on the emulated NPU, with what ``recording_worker`` found beside it.

emulated_copies_job.py JOB.json RESULT.json
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
    result = collect(llm, job, generate(llm, job))
    values = {"result": result, "rewritten": llm.collective_rpc("rewritten")}
    Path(result_file).write_text(json.dumps(values))


if __name__ == "__main__":
    main(*sys.argv[1:])
