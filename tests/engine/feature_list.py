# SPDX-License-Identifier: Apache-2.0
"""Everything that a request can ask for, on two prompts each: a question and a story."""

from __future__ import annotations

import numpy as np

from recall_task import END, FULL_STOP, HELD_OUT_SEED, QUESTION_MARK, tell

from .features import Feature

_STORY = tell(np.random.default_rng([HELD_OUT_SEED, 7]), 420)
_CHAIN = max(_STORY.chains, key=len)
QUESTION = [*_STORY.tokens, QUESTION_MARK, _CHAIN[0]]
ANSWER = [*_CHAIN[1:], END]
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "s": {"enum": ["ba", "be"]}},
    "required": ["n", "s"],
    "additionalProperties": False,
}
LOOSE = {"temperature": 2.0, "ignore_eos": True}
"""As hot as vLLM 0.30.0 lets one be."""
ABORTED = {"abort waiting": 3, "abort in prefill": 3, "abort in decode": 3, "abort preempted": 12}
"""When, and how many: not every request is preempted."""

SAMPLING = {
    "greedy": {},
    "ignore_eos": {"ignore_eos": True},
    "max_tokens 1": {"max_tokens": 1},
    "n": {"n": 3, "temperature": 1.0, "top_k": 1},
    "seed": LOOSE | {"seed": 1},
    "seed, n": LOOSE | {"seed": 2, "n": 3},
    "seed, n, one token": LOOSE | {"seed": 11, "n": 3, "max_tokens": 1},
    "seed, top_k": LOOSE | {"seed": 3, "top_k": 20},
    "seed, top_p": LOOSE | {"seed": 4, "top_p": 0.8},
    "seed, top_k, top_p": LOOSE | {"seed": 5, "top_k": 50, "top_p": 0.9},
    "seed, min_p": LOOSE | {"seed": 6, "min_p": 0.05},
    "seed, penalties": LOOSE | {"seed": 7, "frequency_penalty": 1.0, "repetition_penalty": 1.3},
    "seed, logprobs": LOOSE | {"seed": 8, "logprobs": 4},
    "seed, prompt_logprobs": LOOSE | {"seed": 9, "prompt_logprobs": 2},
    "seed, regex": LOOSE | {"seed": 10, "structured_outputs": {"regex": "[a-d]{12}"}},
    "no seed, top_k 1": {"temperature": 1.0, "top_k": 1},
    "logprobs": {"logprobs": 5},
    "logprobs 0": {"logprobs": 0},
    "logprobs, n": {"logprobs": 3, "n": 2, "temperature": 1.0, "top_k": 1},
    "logprob_token_ids": {"logprob_token_ids": [5, 7, 9]},
    "flat_logprobs": {"logprobs": 2, "flat_logprobs": True},
    "prompt_logprobs": {"prompt_logprobs": 3},
    "prompt_logprobs, logprobs": {"prompt_logprobs": 0, "logprobs": 1},
    "stop": {"stop": ["be"], "ignore_eos": True},
    "stop, included": {"stop": ["ba"], "include_stop_str_in_output": True},
    "stop_token_ids": {"stop_token_ids": [*ANSWER[3:4], 271], "ignore_eos": True},
    "bad_words": {"bad_words": [" bada", " badi", " bebe", "q x"]},
    "min_tokens": {"min_tokens": 11},
    "min_tokens 4": {"min_tokens": 4},
    # A draft's step may go past them: the answer ends after 14 tokens.
    **{f"min_tokens {n}": {"min_tokens": n, "max_tokens": 19} for n in (3, 11, 12, 13, 14)},
    "min_tokens 6": {"min_tokens": 6, "max_tokens": 19},
    "min_tokens 7, stop_token_ids": {"min_tokens": 7, "stop_token_ids": ANSWER[2:5]},
    "json": {"structured_outputs": {"json": SCHEMA}, "max_tokens": 40},
    "json_object": {"structured_outputs": {"json_object": True}},
    "regex": {"structured_outputs": {"regex": "( b[aeiou]b[aeiou]){4}"}},
    "regex, ignore_eos": {
        "structured_outputs": {"regex": "( ba[b-z][aeiou]){2}"}, "ignore_eos": True
    },
    "choice": {"structured_outputs": {"choice": ["yes", "no", " bafo bebe"]}},
    "grammar": {"structured_outputs": {"grammar": 'root ::= (" ba" [b-z] [aeiou])+ "."'}},
    "structural_tag": {
        "structured_outputs": {
            "structural_tag": '{"type": "structural_tag", "format": '
            '{"type": "const_string", "value": "bafo bebe"}}'
        }
    },
    "json, prompt_logprobs": {
        "structured_outputs": {"json": SCHEMA}, "prompt_logprobs": 1, "max_tokens": 40
    },
    "logit_bias": {"logit_bias": {300: 50.0, 301: 49.0}},
    "allowed_token_ids": {"allowed_token_ids": [*range(300, 330)]},
    "presence_penalty": {"presence_penalty": 2.0, "ignore_eos": True},
    "frequency_penalty": {"frequency_penalty": 2.0, "ignore_eos": True},
    "repetition_penalty": {"repetition_penalty": 1.8, "ignore_eos": True},
    "negative penalties": {
        "presence_penalty": -2.0, "frequency_penalty": -1.0, "repetition_penalty": 0.7,
        "ignore_eos": True,
    },
    "repetition_detection": {
        "repetition_detection": {"max_pattern_size": 2, "min_pattern_size": 1, "min_count": 2},
        "ignore_eos": True, "max_tokens": 30,
    },
    "detokenize off": {"detokenize": False},
    "special tokens": {"skip_special_tokens": False, "ignore_eos": True},
    "kv_transfer_params": {"extra_args": {"kv_transfer_params": {"do_remote_decode": False}}},
    "unknown extra_args": {"extra_args": {"anything": 1}},
    "skip_reading_prefix_cache": {"skip_reading_prefix_cache": True},
}  # fmt: skip
INVALID = {
    "max_tokens 0": {"max_tokens": 0},
    "n 0": {"n": 0},
    "temperature -1": {"temperature": -1.0},
    "top_p 0": {"temperature": 1.0, "top_p": 0.0},
    "top_p NaN": {"temperature": 1.0, "top_p": float("nan")},
    "top_k -2": {"temperature": 1.0, "top_k": -2},
    "min_p 2": {"temperature": 1.0, "min_p": 2.0},
    "presence_penalty NaN": {"presence_penalty": float("nan")},
    "repetition_penalty 0": {"repetition_penalty": 0.0},
    "huge logprobs": {"logprobs": 1000},
    "logprobs -1": {"logprobs": -1},
    "huge prompt_logprobs": {"prompt_logprobs": 1000},
    "logprob_token_ids out of vocabulary": {"logprob_token_ids": [99999]},
    "logit_bias out of vocabulary": {"logit_bias": {99999: 1.0}},
    "allowed_token_ids empty": {"allowed_token_ids": []},
    "allowed_token_ids out of vocabulary": {"allowed_token_ids": [99999]},
    "min_tokens over max_tokens": {"min_tokens": 13},
    "stop empty": {"stop": [""]},
    "stop without detokenize": {"stop": ["a"], "detokenize": False},
    "grammar broken": {"structured_outputs": {"grammar": "root ::= ("}},
    "regex broken": {"structured_outputs": {"regex": "(["}},
    "json broken": {"structured_outputs": {"json": "{no"}},
    "json and regex": {"structured_outputs": {"json": SCHEMA, "regex": "a"}},
    "choice empty": {"structured_outputs": {"choice": []}},
    "thinking_token_budget": {"thinking_token_budget": 5},
    # Not all of these are refused. The engine must live, and others get what is theirs.
    "bad_words empty": {"bad_words": [""]},
    "bad_words blank": {"bad_words": [" "]},
    "min_tokens, stop_token_ids out of vocabulary": {
        "min_tokens": 5, "stop_token_ids": [99999]
    },
    "min_tokens, stop_token_ids negative": {"min_tokens": 5, "stop_token_ids": [-99999]},
    "temperature NaN": {"temperature": float("nan")},
    "temperature infinite": {"seed": 1, "temperature": float("inf")},
    "repetition_penalty NaN": {"repetition_penalty": float("nan")},
}  # fmt: skip


def features() -> list[Feature]:
    listed = [
        Feature(f"{name} / {on}", prompt, sampling)
        for name, sampling in SAMPLING.items()
        for on, prompt in (("question", QUESTION), ("story", _STORY.tokens))
    ]
    listed += [Feature(name, QUESTION, sampling) for name, sampling in INVALID.items()]
    listed += [Feature(f"beam search {n}", QUESTION, {"beam_width": n, "max_tokens": 6}, "beam")
               for n in (2, 4, 12)]  # fmt: skip
    listed += [
        Feature(f"{kind} {number}", [FULL_STOP + number, *QUESTION], {"ignore_eos": True}, kind)
        for kind, count in ABORTED.items()
        for number in range(count)
    ]
    listed += [Feature(kind, QUESTION, {}, kind)
               for kind in ("text", "truncated", "embeds", "pooling", "lora")]  # fmt: skip
    listed += [
        Feature("prompt empty", []),
        Feature("prompt out of vocabulary", [*QUESTION, 99999]),
        Feature("prompt with the first id past the vocabulary / question", [*QUESTION, 512]),
        Feature("prompt negative", [*QUESTION, -1]),
        Feature("prompt too long", QUESTION * 20),
        Feature("prompt as long as the model", (QUESTION * 20)[:2048]),
        Feature("prompt of one token", QUESTION[:1]),
        Feature("greedy at last / question", QUESTION),
    ]
    return listed
