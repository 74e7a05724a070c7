# SPDX-License-Identifier: Apache-2.0
"""The real vLLM engine through our CPU worker, against Hugging Face transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo_reference import compare, load_reference, reference_logits
from tiny_checkpoint import TinySizes, write_checkpoint

from .job import Job, run
from .parity import (
    assert_as_close_as_the_stock_worker,
    assert_equals_transformers,
    assert_planned_once_a_step,
    prompts_of,
)

pytestmark = pytest.mark.engine

# Around the chunk (64), the solve block (1216) and the token budget; the long ones need many steps.
# The one-token prompt comes last, into a state block that another request has left its state in.
LENGTHS = (2, 3, 63, 64, 65, 128, 200, 500, 1000, 1217, 2047, 3000, 1)
MIXED = {"max_num_batched_tokens": 256, "max_num_seqs": 8}
# Few enough for the later prompts to get those of earlier ones, with their state in them. (vLLM's
# own CPU worker answers NaN to the last prompts then.)
USED_BLOCKS = {"num_gpu_blocks_override": 48}
# make gives each test one core, and so engines one thread: not these.
THREADS = {"OMP_NUM_THREADS": "2"}

MODELS = {
    "grouped 1:2, head dim 128, MoE": TinySizes(dtype="float32"),
    "grouped 1:1, head dim 64, dense": TinySizes(
        dtype="float32", seed=1, key_heads=2, value_heads=2, head_dim=64, experts=0
    ),
    "grouped 1:3, head dim 64, MoE": TinySizes(
        dtype="float32", seed=2, key_heads=2, value_heads=6, head_dim=64, layers=4
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_float32_equals_transformers(name: str, tmp_path: Path):
    sizes = MODELS[name]
    model = write_checkpoint(tmp_path / "model", sizes)
    prompts = prompts_of(sizes, LENGTHS)
    result = run(Job(str(model), prompts, engine=MIXED | USED_BLOCKS, env=THREADS), tmp_path)

    assert_equals_transformers(model, prompts, result)
    assert_planned_once_a_step(sizes, sum(LENGTHS), MIXED["max_num_batched_tokens"], result)


def test_weights_of_a_cpu_with_amx(small_model: Path, tmp_path: Path):
    # vLLM packs the convolutions' there, for an operator of its own, and not the experts'.
    prompts = [list(range(3, 203)), list(range(5, 10))]
    job = Job(str(small_model), prompts, worker_cls="changed_workers.AmxWorker", max_tokens=8)
    result = run(job, tmp_path)
    reference = load_reference(small_model)
    for prompt, tokens, logprobs in zip(
        prompts, result.tokens, result.prompt_logprobs, strict=True
    ):
        logits = reference_logits(reference, prompt, tokens)
        assert compare(logits, prompt, tokens, logprobs).failure(1e-3) is None


def test_bfloat16_is_as_close_as_the_stock_worker(tmp_path: Path):
    assert_as_close_as_the_stock_worker(TinySizes(dtype="bfloat16", seed=3), LENGTHS, tmp_path)
