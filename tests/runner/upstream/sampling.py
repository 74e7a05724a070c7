# SPDX-License-Identifier: Apache-2.0
"""Sampling metadata of a greedy batch."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata


def greedy(rows: int, **changes: Any) -> SamplingMetadata:
    """Metadata of ``rows`` greedy requests that ask for nothing else but ``changes``."""
    none = torch.zeros(rows)
    values: dict[str, Any] = {
        "temperature": None, "all_greedy": True, "all_random": False, "top_p": None, "top_k": None,
        "generators": {}, "max_num_logprobs": None, "logprob_token_ids": None, "no_penalties": True,
        "prompt_token_ids": None, "frequency_penalties": none, "presence_penalties": none,
        "repetition_penalties": none, "output_token_ids": [[] for _ in range(rows)],
        "spec_token_ids": [[] for _ in range(rows)], "allowed_token_ids_mask": None,
        "bad_words_token_ids": {}, "logitsprocs": LogitsProcessors(),
    }  # fmt: skip
    return SamplingMetadata(**(values | changes))
