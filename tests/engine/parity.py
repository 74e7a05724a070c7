# SPDX-License-Identifier: Apache-2.0
"""Does an engine's answer equal that of Hugging Face transformers, with one plan a prefill step?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from demo_reference import compare, load_reference, reference_logits
from tiny_checkpoint import TinySizes, write_checkpoint

from .job import OUR_WORKER, Job, Result, run


def assert_equals_transformers(model: Path, prompts: Sequence[Sequence[int]], *results: Result):
    """Every greedy token, and the prompts' logprobs within the bounds of float32 rounding."""
    reference = load_reference(model)
    logits = {}
    agreements = []
    for result in results:
        for prompt, tokens, logprobs in zip(
            prompts, result.tokens, result.prompt_logprobs, strict=True
        ):
            text = (*prompt, *tokens)
            if text not in logits:  # the same for all results, if all is well
                logits[text] = reference_logits(reference, prompt, tokens)
            agreements.append(compare(logits[text], prompt, tokens, logprobs))
    largest = max(agreement.max_difference for agreement in agreements)
    print(f"largest logprob difference to transformers: {largest:.1e}")
    assert largest <= 1e-3
    assert max(agreement.mean_difference for agreement in agreements) <= 1e-4
    assert all(each.greedy_matches == each.greedy_tokens > 0 for each in agreements)


def assert_planned_once_a_step(sizes: TinySizes, num_tokens: int, budget: int, result: Result):
    """The prompts were chunked, some steps had no prefill, and all groups shared each plan."""
    stats = result.stats
    assert stats["prefill_steps"] > num_tokens / budget
    assert stats["plans_built"] == stats["prefill_steps"] < stats["steps"]
    gdn_layers = sizes.layer_types.count("linear_attention")
    attention_layers = sizes.layer_types.count("full_attention")
    # vLLM forms groups of as many layers as the smaller kind has.
    assert stats["plans_reused"] == stats["plans_built"] * (gdn_layers // attention_layers - 1)


def prompts_of(sizes: TinySizes, lengths: Sequence[int]) -> list[list[int]]:
    rng = np.random.default_rng(sizes.seed)
    return [rng.integers(3, sizes.vocab_size, length).tolist() for length in lengths]


def assert_as_close_as_the_stock_worker(
    sizes: TinySizes, lengths: Sequence[int], folder: Path, budget: int = 256, **fields: Any
):
    """The mean error of the prompts' logprobs to float32, in the dtype of ``sizes``."""
    model = write_checkpoint(folder / "model", sizes)
    prompts = prompts_of(sizes, lengths)
    reference = load_reference(model)

    def error(worker_cls: str) -> float:
        job_folder = folder / worker_cls
        job_folder.mkdir()
        job = Job(
            str(model), prompts, dtype=sizes.dtype, worker_cls=worker_cls, max_tokens=1,
            counts=False, engine={"max_num_batched_tokens": budget, "max_num_seqs": 8}, **fields,
        )  # fmt: skip
        differences = [
            compare(reference_logits(reference, prompt, [0]), prompt, [0], logprobs).mean_difference
            * (len(prompt) - 1)
            for prompt, logprobs in zip(prompts, run(job, job_folder).prompt_logprobs, strict=True)
        ]
        return sum(differences) / sum(len(prompt) - 1 for prompt in prompts)

    stock, ours = error("changed_workers.HelpedStockWorker"), error(OUR_WORKER)
    print(f"mean |logprob difference| to float32: stock worker {stock:.2e}, ours {ours:.2e}")
    assert ours <= 1.5 * stock
