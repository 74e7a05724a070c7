# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from emulated_npu.install import install
from tiny_checkpoint import TinySizes, write_checkpoint

from .runs import OUR_WORKER, STOCK_WORKER

# For the tests that start no engine; each engine is a process of its own.
install()

NEXT = version("vllm-ascend") == "0.30.0rc2"
"""Whether this is the second of the supported stacks."""
SIZES = TinySizes(dtype="float32", layers=4)
# Around the chunk (64) and the solve block (1216). The one-token prompt comes last, into a state
# block that another request has left its state in.
LENGTHS = (2, 3, 63, 64, 65, 128, 200, 500, 1000, 1217, 3000, 1)


@pytest.fixture(
    params=[
        pytest.param(STOCK_WORKER, marks=pytest.mark.slow, id="stock"),
        pytest.param(OUR_WORKER, id="ours"),
    ]
)
def worker_cls(request) -> str:
    """vllm-ascend's own worker and ours: each test runs both, on the same prompts."""
    return request.param


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A float32 checkpoint, MoE; heads of 128, which the AscendC operators ask for."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "model", SIZES)


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, SIZES.vocab_size, length).tolist() for length in LENGTHS]
