# SPDX-License-Identifier: Apache-2.0
"""``job.py`` with workers in a Ray of its own, kept small and gone at the end."""

from __future__ import annotations

import sys
import tempfile

import ray
from job import main
from wider_cpu_platform import RESOURCE

if __name__ == "__main__":
    # Sockets lie in the folder, whose path must be short; Ray's default would outlive the test.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=1,
            resources={RESOURCE: 2},
            object_store_memory=80 * 2**20,
            include_dashboard=False,
            _temp_dir=folder,
        )
        try:
            main(*sys.argv[1:])
        finally:
            ray.shutdown()
