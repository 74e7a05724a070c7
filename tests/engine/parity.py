# SPDX-License-Identifier: Apache-2.0
"""Does an engine's answer equal that of Hugging Face transformers, with one plan a prefill step?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from demo_reference import compare, load_reference, reference_logits
from tiny_checkpoint import TinySizes

from .job import Result


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
