# SPDX-License-Identifier: Apache-2.0
"""One engine in this process; ``serving.engine`` starts it and asks it for runs.

    python -m serving.engine_process FD ENGINE_FLAGS...

Takes a line of JSON at a time from stdin, and answers with one to the file descriptor FD: stdout is
vLLM's.
"""

import json
import os
import sys
from time import perf_counter
from typing import Any

import numpy as np
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.llm_engine import LLMEngine

TOKENS = (3, 1000)
"""Of which ids prompts are made: neither special tokens nor more than any vocabulary has."""


def run(engine: LLMEngine, prompts: list[list[int]], generated: int) -> dict[str, Any]:
    """Send all prompts at once; returns the seconds until each one's first and last token."""
    sampling = SamplingParams(
        max_tokens=generated, temperature=0, ignore_eos=True, detokenize=False
    )
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    tokens = 0
    started = perf_counter()
    for number, prompt in enumerate(prompts):
        engine.add_request(str(number), {"prompt_token_ids": prompt}, sampling)
    while engine.has_unfinished_requests():
        outputs = engine.step()
        now = perf_counter() - started
        for output in outputs:
            first.setdefault(output.request_id, now)
            if output.finished:
                last[output.request_id] = now
                tokens += len(output.outputs[0].token_ids)
    order = sorted(last)
    return {
        "first": [first[request] for request in order],
        "last": [last[request] for request in order],
        "tokens": tokens,
    }


def runs(
    engine: LLMEngine, count: int, seed: int, prompts: int, tokens: int, generated: int
) -> list[dict[str, Any]]:
    """``count`` runs in a row, each with prompts of its own."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(*TOKENS, size=(count, prompts, tokens)).tolist()
    return [run(engine, each, generated) for each in drawn]


def main() -> None:
    answers = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    flags = EngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(sys.argv[2:])
    engine = LLMEngine.from_engine_args(EngineArgs.from_cli_args(flags), UsageContext.LLM_CLASS)
    answers.write("null\n")
    calls = {
        "runs": lambda **how: runs(engine, **how),
        "start_profile": engine.start_profile,
        "stop_profile": engine.stop_profile,  # it writes the trace
        "call_workers": engine.collective_rpc,
    }
    for line in sys.stdin:
        call, arguments = json.loads(line)
        answers.write(json.dumps(calls[call](**arguments)) + "\n")


if __name__ == "__main__":
    main()
