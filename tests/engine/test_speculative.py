# SPDX-License-Identifier: Apache-2.0
"""MTP: whatever is drafted, kept, cut off or lost, the tokens are those without it."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from tiny_checkpoint import TinySizes, write_checkpoint

from .job import Job, Result, run

pytestmark = pytest.mark.engine

NUM_SPEC = 3
MTP = {
    "speculative_config": {"method": "qwen3_next_mtp", "num_speculative_tokens": NUM_SPEC},
}
EDGES = [1, 2, 3, NUM_SPEC + 1, NUM_SPEC + 2, 63, 64, 65, 128, 257, 900]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("model"), TinySizes(dtype="float32", vocab_size=512, seed=9)
    )


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = random.Random(0)
    lengths = EDGES + [rng.randrange(1, 200) for _ in range(64 - len(EDGES))]
    rng.shuffle(lengths)
    return [[rng.randrange(3, 512) for _ in range(length)] for length in lengths]


def job(model: Path, prompts: list[list[int]], folder: Path, **changes) -> Result:
    folder.mkdir()
    engine = {"max_num_seqs": 16, "max_num_batched_tokens": 256} | changes.pop("engine", {})
    return run(Job(str(model), prompts, engine=engine, max_tokens=24, **changes), folder)


@pytest.fixture(scope="module")
def plain(model, prompts, tmp_path_factory) -> Result:
    """Without MTP."""
    return job(model, prompts, tmp_path_factory.mktemp("jobs") / "plain")


def test_64_mixed_requests_get_the_tokens_they_get_without(model, prompts, plain, tmp_path):
    mtp = job(model, prompts, tmp_path / "mtp", engine=MTP)
    assert mtp.tokens == plain.tokens
    assert mtp.stats["plans_built"] == mtp.stats["prefill_steps"]


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("room for all drafts", {}),
        # 24 requests with 3 drafts each are 96 tokens: some lose theirs, wholly or in part.
        ("too small a budget", {"max_num_seqs": 24, "max_num_batched_tokens": 64}),
        # The last steps of the long prompts have no room for all drafts, or for any.
        pytest.param("too short a model", {"max_model_len": 900 + 24}, marks=pytest.mark.slow),
    ],
)
def test_accepted_drafts(name, engine, model, prompts, plain, tmp_path):
    known = tmp_path / "known.json"
    known.write_text(json.dumps(list(zip(prompts, plain.tokens, strict=True))))
    oracle = job(
        model,
        prompts,
        tmp_path / "oracle",
        worker_cls="changed_workers.OracleWorker",
        engine=MTP | engine,
        env={"ORACLE": str(known)},
    )
    print(f"{name}: {oracle.stats['steps']} steps, {plain.stats['steps']} without MTP")
    assert oracle.tokens == plain.tokens
    if not engine:
        assert oracle.stats["steps"] < 0.7 * plain.stats["steps"]


def test_sampling_at_random(model, tmp_path):
    # vLLM's rejection sampler cannot on CPU. Each token is one of three: nine ways to begin, in
    # shares that must be those of the run without MTP.
    prompts = [[7, 8, 9] * 14] * 200
    sampling = {"temperature": 0.7, "top_k": 3, "prompt_logprobs": None}
    plain, mtp = (
        Counter(
            tuple(tokens[:2])  # a step with drafts has sampled the second
            for tokens in job(
                model, prompts, tmp_path / name, engine=engine, sampling=sampling
            ).tokens
        )
        for name, engine in (("plain", {}), ("mtp", MTP))
    )
    distance = sum(abs(plain[text] - mtp[text]) for text in plain | mtp) / (2 * len(prompts))
    print(f"distance between two samples of {len(prompts)}: {distance:.2f}")
    assert len(plain) > 3
    assert distance < 0.3  # 0.12 is to be expected
