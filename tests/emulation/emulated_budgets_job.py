# SPDX-License-Identifier: Apache-2.0
"""As tests/engine/budgets_job.py, on the emulated NPU.

emulated_budgets_job.py JOB.json RESULT.json PLAN
"""

from __future__ import annotations

import sys

import job_path  # noqa: F401

from emulated_npu.install import install

install()

from budgets_job import main  # noqa: E402

if __name__ == "__main__":
    main(*sys.argv[1:])
