# SPDX-License-Identifier: Apache-2.0
"""CPUs with AVX2 alone and with AMX, where vLLM takes other paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from ascend_gdn.runner.versions import check_version
from tiny_checkpoint import TinySizes, write_checkpoint

from .cpu_isa import AVX2, HAS_AMX, NATIVE
from .job import Job, run, start
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


@pytest.mark.skipif(not HAS_AMX, reason="this CPU has no AMX")
def test_float32_with_amx(tmp_path: Path):
    model = write_checkpoint(tmp_path / "model", SIZES)
    prompts = prompts_of(SIZES, LENGTHS)
    engine = {"max_num_batched_tokens": 4096, "max_num_seqs": 4}  # prompts are not chunked
    result = run(Job(str(model), prompts, max_tokens=8, engine=engine, env=NATIVE), tmp_path)
    assert_equals_transformers(model, prompts, result)


@pytest.mark.skipif(not HAS_AMX, reason="this CPU has no AMX")
def test_bfloat16_with_amx(tmp_path: Path):
    sizes = TinySizes(dtype="bfloat16", layers=4, seed=3)
    assert_as_close_as_the_stock_worker(sizes, LENGTHS, tmp_path, budget=4096, env=NATIVE)


@pytest.mark.skipif(not HAS_AMX or check_version().vllm != "0.23.0", reason="prompts are chunked")
def test_prompts_that_would_wait_for_ever_with_amx_are_refused(tmp_path: Path):
    model = write_checkpoint(tmp_path / "model", SIZES)
    engine = {"max_num_batched_tokens": 128, "max_num_seqs": 4, "max_model_len": 256}
    process = start(Job(str(model), [[5]], engine=engine, env=NATIVE), tmp_path)
    assert process.returncode != 0
    assert "got --max-num-batched-tokens 128 without chunked prefill" in process.stdout
