# SPDX-License-Identifier: Apache-2.0
"""Qwen3.5, text-only, through both workers on the emulated NPU, against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_checkpoint import TinySizes, write_checkpoint

from ..engine.job import Result
from ..engine.parity import assert_equals_transformers
from ..engine.test_qwen3_5 import LENGTHS, MIXED, make_draftable, prompts_of
from .runs import OUR_WORKER, emulated_job, run_emulated

pytestmark = pytest.mark.engine

MOE = TinySizes(family="qwen3_5", dtype="float32", seed=4, layers=4)
DENSE = TinySizes(family="qwen3_5", dtype="float32", seed=5, layers=4, value_heads=6, experts=0)
TEXT_ONLY = {"language_model_only": True, "disable_log_stats": False}
# Few enough blocks that the later prompts get those of earlier ones, with their state in them.
PLAIN = MIXED | TEXT_ONLY | {"num_gpu_blocks_override": 24}
MTP = MIXED | TEXT_ONLY | {
    "num_gpu_blocks_override": 48,
    "speculative_config": {"method": "qwen3_5_mtp", "num_speculative_tokens": 3},
}  # fmt: skip


@pytest.mark.parametrize(
    "sizes",
    [pytest.param(MOE, id="MoE"), pytest.param(DENSE, id="dense", marks=pytest.mark.slow)],
)
def test_equals_transformers_with_and_without_mtp(
    sizes: TinySizes, worker_cls: str, tmp_path: Path
):
    model = draftable_checkpoint(tmp_path, sizes)
    prompts = prompts_of(sizes)
    plain, drafted = (
        run_emulated(
            emulated_job(model, prompts, worker_cls=worker_cls, engine=engine, max_tokens=24),
            tmp_path / name,
        )
        for name, engine in (("plain", PLAIN), ("mtp", MTP))
    )
    assert_equals_transformers(model, prompts, plain, drafted)
    assert_drafts_were_accepted(drafted)
    if worker_cls == OUR_WORKER:
        for result in (plain, drafted):
            stats = result.stats
            assert sum(LENGTHS) / MIXED["max_num_batched_tokens"] < stats["prefill_steps"]
            assert stats["prefill_steps"] < stats["steps"]
            # With MTP plans are also of steps that verify drafts of unequal lengths.
            assert stats["plans_built"] >= stats["prefill_steps"]
        assert plain.stats["plans_built"] == plain.stats["prefill_steps"]
        assert plain.stats["plans_reused"] == 2 * plain.stats["plans_built"]  # three groups
        assert drafted.stats["steps"] < plain.stats["steps"]


@pytest.mark.slow
def test_two_ranks(worker_cls: str, tmp_path: Path):
    model = draftable_checkpoint(tmp_path, MOE)
    prompts = prompts_of(MOE)
    job = emulated_job(
        model,
        prompts,
        worker_cls=worker_cls,
        # vLLM makes the tower even so; it has one head, so that each rank takes all of it.
        engine=MTP | {"tensor_parallel_size": 2, "mm_encoder_tp_mode": "data"},
        env={"OMP_NUM_THREADS": "1"},
    )
    result = run_emulated(job, tmp_path)
    assert_equals_transformers(model, prompts, result)
    assert_drafts_were_accepted(result)


def draftable_checkpoint(folder: Path, sizes: TinySizes) -> Path:
    model = write_checkpoint(folder / "model", sizes)
    make_draftable(model)
    return model


def assert_drafts_were_accepted(result: Result) -> None:
    accepted = result.counters["vllm:spec_decode_num_accepted_tokens"]
    drafted = result.counters["vllm:spec_decode_num_draft_tokens"]
    print(f"{accepted:.0f} of {drafted:.0f} drafts accepted")
    assert accepted > 0.2 * drafted > 0
