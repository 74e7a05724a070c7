# SPDX-License-Identifier: Apache-2.0
"""What clients send to a server: what has one right answer, what has none, what is garbled."""

from __future__ import annotations

import math
from typing import Any

from .feature_list import INVALID as INVALID_SAMPLING
from .feature_list import QUESTION, SAMPLING


def of_server(sampling: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments of ``SamplingParams`` as a request's fields; None for those it has no field for."""
    no_field = {"detokenize", "flat_logprobs", "logprob_token_ids", "skip_reading_prefix_cache"}
    if no_field & sampling.keys() or "bad_words" in sampling:
        return None
    fields = {"temperature": 0, "max_tokens": 12} | sampling
    return fields | fields.pop("extra_args", {})


CERTAIN = [fields for each in SAMPLING.values() if (fields := of_server(each)) is not None]
"""Greedy or seeded: whoever asks again, beside whomever, gets the same."""
INVALID = [
    *({"temperature": 0, "max_tokens": 12} | each for each in INVALID_SAMPLING.values()),
    {"prompt": []},
    {"prompt": ""},
    {"prompt": [-1]},
    {"prompt": [*QUESTION, 512]},
    {"prompt": QUESTION * 20},
    {"prompt": None},
    {"prompt": "a", "prompt_embeds": "bm9uZQ=="},
    {"prompt_embeds": "bm9uZQ=="},
    {"model": "none"},
    {"stream_options": {"include_usage": True}},
    {"n": "many"},
    {"n": 2, "temperature": 0},
    {"seed": 2**70},
    {"truncate_prompt_tokens": -2},
    {"logit_bias": {"a": 1}},
    {"logit_bias": {"5": "x"}},
    {"use_beam_search": True, "n": 30},
    {"response_format": {"type": "json_schema"}},
    {
        "response_format": {
            "type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 7}}
        }
    },
    {"structured_outputs": {"json": {"type": "nonsense"}}},
    {"structured_outputs": {"structural_tag": "{}"}},
    {"structured_outputs": {"choice": "yes"}},
    {"structured_outputs": {"regex": "a{1000000}"}},
    {"structured_outputs": {"grammar": "root ::= other"}},
    {"repetition_detection": {"max_pattern_size": 2, "min_count": 1}},
    {"priority": 2**70},
    {"cache_salt": ""},
]  # fmt: skip
VALUES = [
    None, True, -1, 0, 1, 7, 2**40, -(2**40), 0.5, 1e30, math.nan, math.inf, "", "ba",
    [], [""], [0], [-1], [10**6], {}, {"0": 1.0}, {"a": "b"},
]  # fmt: skip
FIELDS = [
    "add_special_tokens", "allowed_token_ids", "cache_salt", "echo", "frequency_penalty",
    "ignore_eos", "include_stop_str_in_output", "kv_transfer_params", "length_penalty",
    "logit_bias", "logprobs", "max_tokens", "min_p", "min_tokens", "n", "presence_penalty",
    "priority", "prompt", "prompt_embeds", "prompt_logprobs", "repetition_detection",
    "repetition_penalty", "request_id", "response_format", "return_token_ids",
    "return_tokens_as_token_ids", "seed", "skip_special_tokens",
    "spaces_between_special_tokens", "stop", "stop_token_ids", "stream", "stream_options",
    "structured_outputs", "suffix", "temperature", "thinking_token_budget", "top_k", "top_p",
    "truncate_prompt_tokens", "truncation_side", "use_beam_search", "user", "vllm_xargs",
]  # fmt: skip
ELSEWHERE = [
    ("v1/chat/completions", {"messages": [{"role": "user", "content": "ba"}], "max_tokens": 4}),
    ("v1/chat/completions", {"messages": [{"role": "user", "content": "ba"}], "max_tokens": 4,
                             "logprobs": True, "top_logprobs": 3, "bad_words": [" "]}),
    ("v1/chat/completions", {"messages": [{"role": "user", "content": "ba"}], "max_tokens": 4,
                             "bad_words": ["ba", " bafo bebe"], "min_tokens": 3}),
    ("v1/chat/completions", {"messages": [], "max_tokens": 4}),
    ("v1/chat/completions", {"messages": [{"role": "user", "content": "ba"}], "tool_choice": "auto",
                             "tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("v1/responses", {"input": "ba", "max_output_tokens": 4}),
    ("v1/embeddings", {"input": "ba"}),
    ("pooling", {"input": "ba"}),
    ("score", {"text_1": "ba", "text_2": "be"}),
    ("tokenize", {"prompt": "ba"}),
    ("detokenize", {"tokens": [10**6]}),
    ("generative_scoring", {"query": "ba", "items": ["be", "bi"], "label_token_ids": [5, 7, 9]}),
    ("generative_scoring", {"query": "ba", "items": ["be"], "label_token_ids": [10**6]}),
    ("inference/v1/generate", {"token_ids": QUESTION, "sampling_params": {"max_tokens": 4}}),
    ("inference/v1/generate", {"token_ids": [10**6], "sampling_params": {"seed": 2**65}}),
    ("inference/v1/generate", {"token_ids": QUESTION, "sampling_params": {"seed": 2**65}}),
    ("inference/v1/generate", {"token_ids": QUESTION, "sampling_params": {"bad_words": [" "]}}),
    ("inference/v1/generate", {"token_ids": QUESTION, "sampling_params": {
        "logprob_token_ids": [3, 4], "temperature": 0.0, "max_tokens": 4}}),
]  # fmt: skip
