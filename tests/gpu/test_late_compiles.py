# SPDX-License-Identifier: Apache-2.0
"""No request waits for a kernel: what steps run is compiled, and tuned, when the server is up."""

from __future__ import annotations

from .device import require_cuda

require_cuda()

import re
from pathlib import Path

import pytest

from ..engine.job import run_script
from .test_engine import DECODE_GRAPHS, EAGER, MTP, OUR_WORKER, PIECEWISE_GRAPHS, job

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

JOB = Path(__file__).parents[1] / "engine" / "lengths_job.py"
STEPS = 200
FLASH = {"attention_backend": "FLASH_ATTN"}


def compiled_for_requests(
    worker: str, engine: dict[str, object], folder: Path
) -> tuple[list[str], str]:
    """What Triton makes ready after the start, from the disk or anew, and the engine's log."""
    each = job(worker, FLASH | engine | {"max_num_seqs": 40, "max_num_batched_tokens": 3000})
    each.env = each.env | {"TRITON_CACHE_DIR": str(folder / "triton")}
    found, log = run_script(str(JOB), each, folder, str(STEPS), timeout=900)
    print("slowest steps:", *found["slowest"], "compiled:", found["compiled"], sep="\n")
    return found["compiled"], log


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(PIECEWISE_GRAPHS, id="piecewise graphs"),
        pytest.param(DECODE_GRAPHS | MTP, id="decode graphs, MTP"),
        pytest.param(EAGER, id="eager"),
    ],
)
def test_nothing_is_compiled_for_a_request(engine, tmp_path):
    for _ in ("cold", "warm"):
        compiled, log = compiled_for_requests(OUR_WORKER, engine, tmp_path)
        assert "Kernel JIT monitor activated" in log
        assert re.findall(r"(?:JIT compilation during inference|Autotuning kernel).*", log) == []
        assert compiled == []


def test_vllms_own_worker_compiles_for_requests(tmp_path):
    """What ours is spared; and that it would be seen."""
    compiled, _ = compiled_for_requests("auto", PIECEWISE_GRAPHS, tmp_path)
    assert compiled
