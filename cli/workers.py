# SPDX-License-Identifier: Apache-2.0
"""Which worker is for which platform."""

from __future__ import annotations

WORKERS = {"cpu": "CPUWorker", "cuda": "GPUWorker", "npu": "NPUWorker"}
"""By the type of device that vLLM has found."""


def worker_path(device_type: str) -> str:
    """What ``--worker-cls`` takes."""
    return f"ascend_gdn.runner.{WORKERS[device_type]}"
