# SPDX-License-Identifier: Apache-2.0
"""A CPU with AVX2 alone, where vLLM takes other paths; those of AMX are in ``test_parity.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_checkpoint import TinySizes, write_checkpoint

from .cpu_isa import AVX2
from .job import Job, run
from .parity import assert_as_close_as_the_stock_worker, assert_equals_transformers, prompts_of

pytestmark = pytest.mark.engine

SIZES = TinySizes(dtype="float32", layers=4)  # a mixture of experts
LENGTHS = (2, 200, 65, 1)
ENGINES = {
    "eager": ({}, {}),
    "compiled": ({"enforce_eager": False}, {"TORCH_COMPILE_DISABLE": None}),
}
ADVICE = "pass --dtype float32"


@pytest.mark.parametrize("name", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_float32(name: str, tmp_path: Path):
    model = write_checkpoint(tmp_path / "model", SIZES)
    prompts = prompts_of(SIZES, LENGTHS)
    engine, env = ENGINES[name]
    engine = engine | {"max_num_batched_tokens": 128, "max_num_seqs": 4}
    result = run(Job(str(model), prompts, max_tokens=8, engine=engine, env=AVX2 | env), tmp_path)
    assert_equals_transformers(model, prompts, result)
    assert ADVICE not in result.log


def test_bfloat16(tmp_path: Path):
    sizes = TinySizes(dtype="bfloat16", layers=4, seed=3)
    assert_as_close_as_the_stock_worker(sizes, LENGTHS, tmp_path, env=AVX2)
    assert ADVICE in (tmp_path / "ascend_gdn.runner.CPUWorker" / "log.txt").read_text()
