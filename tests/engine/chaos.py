# SPDX-License-Identifier: Apache-2.0
"""Throw everything the scheduler has at one real engine, and check every answer.

Requests arrive, are aborted and overtake each other at random, with MTP and prefix caching on and a
KV cache so small that requests are preempted. All of it comes from one seed.

    chaos.py OPTIONS.json RESULT.json
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil


@dataclass
class Options:
    model: str
    known: list[tuple[list[int], list[int]]]
    """Prompts, and the tokens that each must get."""
    requests: int = 500
    minutes: float = 0.0
    """Go on for as long after these requests, however many more that takes."""
    seed: int = 0
    live: int = 24
    """Most requests at a time: more than run at once."""
    abort: float = 0.06
    """Chance a step that some request, waiting or running, is aborted."""
    engine: dict[str, object] = field(default_factory=dict)
    """Arguments of ``LLM``."""


@dataclass
class Report:
    finished: int = 0
    aborted: int = 0
    wrong: list[tuple[list[int], list[int]]] = field(default_factory=list)
    """What was said, what should have been."""
    leaked_blocks: int = 0
    preemptions: int = 0
    cached_tokens: int = 0
    drafts: int = 0
    accepted: int = 0
    stats: dict[str, float] = field(default_factory=dict)
    samples: list[tuple[int, int, float]] = field(default_factory=list)
    """Every 10 seconds: requests sent, resident bytes of the process, bytes of the pools."""


def chaos(options: Options) -> Report:
    from vllm import LLM, SamplingParams

    llm = LLM(
        options.model, scheduling_policy="priority", disable_log_stats=False, **options.engine
    )
    engine, rng, report = llm.llm_engine, random.Random(options.seed), Report()
    block_pool = engine.engine_core.engine_core.scheduler.kv_cache_manager.block_pool
    free_blocks = block_pool.get_num_free_blocks()
    process, started = psutil.Process(), time.monotonic()
    live: dict[str, list[int]] = {}
    sent, until = 0, 0.0

    def more() -> bool:
        return sent < options.requests or time.monotonic() < until

    while more() or live:
        while more() and len(live) < options.live and rng.random() < 0.6:
            prompt, answer = rng.choice(options.known)
            parameters = SamplingParams(max_tokens=len(answer), temperature=0, ignore_eos=True)
            name = str(sent)
            engine.add_request(
                name, {"prompt_token_ids": prompt}, parameters, priority=rng.randrange(3)
            )
            live[name] = answer
            sent += 1
            if sent == options.requests:
                until = time.monotonic() + 60 * options.minutes
        if live and rng.random() < options.abort:
            name = rng.choice(list(live))
            engine.abort_request([name])
            del live[name]
            report.aborted += 1
        for output in engine.step():
            if output.finished and output.request_id in live:
                said, expected = list(output.outputs[0].token_ids), live.pop(output.request_id)
                report.finished += 1
                if said != expected:
                    report.wrong.append((said, expected))
        if time.monotonic() - started > 10 * len(report.samples):
            pools = llm.collective_rpc("gdn_stats")[0]["pool_bytes"]
            report.samples.append((sent, process.memory_info().rss, pools))
    report.leaked_blocks = free_blocks - block_pool.get_num_free_blocks()
    report.stats = llm.collective_rpc("gdn_stats")[0]
    counters = {metric.name: metric for metric in llm.get_metrics()}
    report.preemptions = counters["vllm:num_preemptions"].value
    report.cached_tokens = counters["vllm:prefix_cache_hits"].value
    if "vllm:spec_decode_num_drafts" in counters:
        report.drafts = counters["vllm:spec_decode_num_draft_tokens"].value
        report.accepted = counters["vllm:spec_decode_num_accepted_tokens"].value
    return report


def main(options_file: str, result_file: str) -> None:
    report = chaos(Options(**json.loads(Path(options_file).read_text())))
    Path(result_file).write_text(json.dumps(asdict(report)))


if __name__ == "__main__":
    main(*sys.argv[1:])
