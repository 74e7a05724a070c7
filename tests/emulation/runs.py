# SPDX-License-Identifier: Apache-2.0
"""Run one vLLM engine on the emulated NPU, in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..engine.job import Job, Result, run

STOCK_WORKER = "emulated_npu.worker.StockWorker"
OUR_WORKER = "emulated_npu.our_worker.OurWorker"
SCRIPT = str(Path(__file__).parent / "emulated_job.py")
CALLS_SCRIPT = str(Path(__file__).parent / "emulated_calls_job.py")
ENGINE = {
    "kv_cache_memory_bytes": 2**28,
    "enable_prefix_caching": False,
    "additional_config": {"enable_cpu_binding": False},
}


def emulated_job(
    model: Path,
    prompts: list[list[int]],
    *,
    worker_cls: str = STOCK_WORKER,
    engine: dict[str, object] | None = None,
    **fields: Any,
) -> Job:
    """A job in float32; ``worker_cls`` derives from ``emulated_npu.worker.EmulatedDevice``."""
    defaults = {"max_tokens": 16, "counts": worker_cls != STOCK_WORKER}
    return Job(
        str(model), prompts, worker_cls=worker_cls, engine=ENGINE | (engine or {}),
        **(defaults | fields),
    )  # fmt: skip


def run_emulated(job: Job, folder: Path, timeout: float = 600) -> Result:
    """As :func:`..engine.job.run`. A float32 job computes one width up: ``emulated_npu.wide``."""
    job.env = {"EMULATED_NPU_WIDE": str(int(job.dtype == "float32"))} | job.env
    folder.mkdir(exist_ok=True)
    return run(job, folder, timeout, SCRIPT)
