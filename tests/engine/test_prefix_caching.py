# SPDX-License-Identifier: Apache-2.0
"""Prefix caching: what a request takes from the cache is what it would have computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from demo_reference import load_reference, reference_logits
from tiny_checkpoint import TinySizes, write_checkpoint
from upstream_calls import OLDEST

from .job import Job, Result, run

pytestmark = pytest.mark.engine

BLOCK = 32
"""Half a chunk of the delta rule; attention's pages of 32 tokens just hold a GDN state."""
SIZES = TinySizes(
    dtype="float32",
    seed=5,
    layers=4,
    head_dim=64,
    attention_kv_heads=4,
    attention_head_dim=128,
    experts=0,
)
ENGINE = {"max_num_batched_tokens": 3 * BLOCK + 16, "max_num_seqs": 6, "block_size": BLOCK}
ALIGN = {"enable_prefix_caching": True, "mamba_cache_mode": "align"}
MTP = {
    "speculative_config": {"method": "qwen3_next_mtp", "num_speculative_tokens": 3},
    "scheduler_cls": "ascend_gdn.runner.align_scheduler.AlignedScheduler",
}
ANSWER = 3 * BLOCK
"""Long enough to fill blocks in the middle of accepted draft tokens."""


def random_tokens(rng: np.random.Generator, count: int) -> list[int]:
    return rng.integers(3, SIZES.vocab_size, count).tolist()


def first_prompts() -> list[list[int]]:
    """One request, then five beside one another, most of which begin like it."""
    rng = np.random.default_rng(0)
    trunk = random_tokens(rng, 8 * BLOCK + 9)
    first = trunk + random_tokens(rng, 20)
    return [
        first,
        first,
        trunk + random_tokens(rng, 1),
        # With MTP the two above leave room for 9 of its tokens in the first step that it is in:
        # vLLM's own scheduler would then cache its first block with the state after those.
        random_tokens(rng, 2 * BLOCK - 4),
        trunk[: 4 * BLOCK] + random_tokens(rng, 50),
        trunk[: 4 * BLOCK + 1] + random_tokens(rng, BLOCK - 2),
    ]


def next_prompts(result: Result) -> list[list[int]]:
    """Six that take up a part of the answers to the first ones."""
    rng = np.random.default_rng(1)
    kept, more = [ANSWER, 70, 64, 10, 80, 31], [5, 40, 1, 33, 2, 70]
    return [
        prompt + result.tokens[place][: kept[place]] + random_tokens(rng, more[place])
        for place, prompt in enumerate(first_prompts())
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), SIZES)


def job(model: Path, prompts: list[list[int]], folder: Path, **changes) -> Result:
    folder.mkdir()
    engine = ENGINE | changes.pop("engine", {})
    # vLLM reads no cache for requests that ask for their prompt's logprobs.
    sampling = {"prompt_logprobs": None, "logprobs": 0}
    arguments = {"max_tokens": ANSWER, "engine": engine, "sampling": sampling}
    return run(Job(str(model), prompts, rounds=[1, 5, 6], **arguments, **changes), folder)


@pytest.fixture(scope="module")
def plain(model, tmp_path_factory) -> Result:
    """The first prompts, without prefix caching."""
    folder = tmp_path_factory.mktemp("jobs") / "plain"
    return job(model, first_prompts(), folder, engine={"enable_prefix_caching": False})


@pytest.fixture(scope="module")
def prompts(plain) -> list[list[int]]:
    return first_prompts() + next_prompts(plain)


@pytest.fixture(scope="module")
def cached(model, prompts, tmp_path_factory) -> Result:
    return job(model, prompts, tmp_path_factory.mktemp("jobs") / "align", engine=ALIGN)


def check_hits(prompts: list[list[int]], result: Result) -> None:
    print(f"prompts of {[len(prompt) for prompt in prompts]}, cached {result.cached_tokens}")
    first, *second = result.cached_tokens[:6]
    third = result.cached_tokens[6:]
    unlike = second.pop(2)
    assert first == unlike == 0
    if not OLDEST:  # later ones have no state where nothing had branched off before
        second, third = ([hit for hit in hits if hit] for hits in (second, third))
        assert len(second) >= 3 and len(third) >= 5
    assert min(second) > BLOCK <= min(third)
    # Some go on from a block that was filled while its request decoded.
    assert any(
        hit > len(before) for hit, before in zip(result.cached_tokens[6:], prompts[:6], strict=True)
    )


def test_the_tokens_are_those_without_prefix_caching(plain, cached, prompts):
    assert plain.cached_tokens == [0] * 6
    check_hits(prompts, cached)
    assert cached.tokens[:6] == plain.tokens


def test_the_tokens_are_those_of_transformers(model, prompts, cached):
    reference = load_reference(model)
    for prompt, tokens, logprobs in zip(prompts, cached.tokens, cached.logprobs, strict=True):
        logits = reference_logits(reference, prompt, tokens)[len(prompt) - 1 :]
        assert logits.argmax(-1).tolist() == tokens
        expected = logits.log_softmax(-1).max(-1).values.numpy()
        np.testing.assert_allclose(logprobs, expected, atol=1e-3)


def test_with_mtp(model, plain, prompts, cached, tmp_path):
    known = tmp_path / "known.json"
    known.write_text(json.dumps(list(zip(prompts, cached.tokens, strict=True))))
    mtp = job(
        model,
        prompts,
        tmp_path / "mtp",
        worker_cls="changed_workers.OracleWorker",
        engine=ALIGN | MTP,
        env={"ORACLE": str(known)},
    )
    check_hits(prompts, mtp)
    print(f"{mtp.stats['steps']} steps, {cached.stats['steps']} without MTP")
    assert mtp.stats["steps"] < 0.7 * cached.stats["steps"]  # drafts were kept
    assert mtp.tokens == cached.tokens
    for logprobs, expected in zip(mtp.logprobs, cached.logprobs, strict=True):
        np.testing.assert_allclose(logprobs, expected, atol=1e-3)
