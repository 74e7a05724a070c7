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


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(FLASH | PIECEWISE_GRAPHS, id="piecewise graphs"),
        pytest.param(FLASH | DECODE_GRAPHS | MTP, id="decode graphs, MTP"),
        pytest.param(FLASH | EAGER, id="eager"),
    ],
)
def test_nothing_is_compiled_for_a_request(engine, tmp_path):
    for cache in ("cold", "warm"):
        each = job(OUR_WORKER, engine | {"max_num_seqs": 40, "max_num_batched_tokens": 3000})
        each.env = each.env | {"TRITON_CACHE_DIR": str(tmp_path / "triton")}
        found, log = run_script(str(JOB), each, tmp_path, str(STEPS), timeout=900)
        print(cache, *found["slowest"], sep="\n")
        assert "Kernel JIT monitor activated" in log
        assert re.findall(r"(?:JIT compilation during inference|Autotuning kernel).*", log) == []
        assert found["compiled"] == []
