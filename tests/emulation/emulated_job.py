# SPDX-License-Identifier: Apache-2.0
"""As tests/engine/job.py, on the emulated NPU.

emulated_job.py JOB.json RESULT.json
"""

from __future__ import annotations

import sys

import job_path  # noqa: F401

from emulated_npu.install import install

# Also in processes that vLLM's executor spawns: they run this file first.
install()

from job import main  # noqa: E402

if __name__ == "__main__":
    main(*sys.argv[1:])
