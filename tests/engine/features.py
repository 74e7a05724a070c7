# SPDX-License-Identifier: Apache-2.0
"""Ask one real engine for everything that a request can ask for, side by side or one by one.

features.py OPTIONS.json RESULT.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput
    from vllm.v1.request import Request

_MOST_STEPS = 20_000


@dataclass
class Feature:
    """One request."""

    name: str
    prompt: list[int]
    sampling: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``SamplingParams``."""
    kind: str = "generate"
    """Or what else is asked for: see ``_add_request``, ``_reached`` and ``_search_beams``."""


@dataclass
class Answer:
    """What came of it."""

    refused: str = ""
    """The error, if the engine would not take the request."""
    said: list[tuple[list[int], str, str]] = field(default_factory=list)
    """Tokens, text and finish reason of each of its n answers."""
    logprobs: list[list[dict[str, float]]] = field(default_factory=list)
    """Of each answer, by token id, a dict a token; empty if it asked for none."""
    prompt_logprobs: list[dict[str, float]] = field(default_factory=list)
    aborted: bool = False


@dataclass
class Options:
    engine: dict[str, Any]
    """Arguments of ``LLM``."""
    features: list[Feature]
    side_by_side: bool = True
    rounds: int = 1
    """How often all is asked; the answers are those of the last round."""
    among_greedy: bool = False
    """Before that, ask those that are verified by drafts among themselves."""


@dataclass
class Report:
    answers: dict[str, Answer] = field(default_factory=dict)
    among_greedy: dict[str, Answer] = field(default_factory=dict)
    leaked_blocks: int = 0
    counters: dict[str, float] = field(default_factory=dict)
    prefill_steps: int = 0


def _sampling_params(sampling: dict[str, Any]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import (
        RepetitionDetectionParams,
        RequestOutputKind,
        StructuredOutputsParams,
    )

    # With any other kind each of n answers comes by itself.
    values = {
        "temperature": 0, "max_tokens": 12, "output_kind": RequestOutputKind.FINAL_ONLY
    } | sampling  # fmt: skip
    if "logit_bias" in values:  # JSON has strings for keys
        values["logit_bias"] = {int(token): bias for token, bias in values["logit_bias"].items()}
    if "structured_outputs" in values:
        values["structured_outputs"] = StructuredOutputsParams(**values["structured_outputs"])
    if "repetition_detection" in values:
        values["repetition_detection"] = RepetitionDetectionParams(**values["repetition_detection"])
    return SamplingParams(**values)


def _send(llm: LLM, feature: Feature, priority: int) -> Answer:
    """Hand the request to the engine; the answer is there already if that refuses it."""
    try:
        _add_request(llm, feature, priority=priority)
    except Exception as error:
        return Answer(refused=f"{type(error).__name__}: {error}")
    return Answer()


def _add_request(llm: LLM, feature: Feature, **more: Any) -> None:
    import torch
    from vllm import PoolingParams
    from vllm.lora.request import LoRARequest

    prompt: dict[str, Any] = {"prompt_token_ids": feature.prompt}
    if feature.kind == "embeds":
        prompt = {"prompt_embeds": torch.zeros(len(feature.prompt), 8)}
    elif feature.kind == "text":
        prompt = {"prompt": llm.get_tokenizer().decode(feature.prompt)}
    elif feature.kind == "truncated":
        more["tokenization_kwargs"] = {"truncate_prompt_tokens": 100}
    elif feature.kind == "lora":
        more["lora_request"] = LoRARequest("none", 1, "/nowhere")
    pooling = feature.kind == "pooling"
    parameters = PoolingParams(task="embed") if pooling else _sampling_params(feature.sampling)
    llm.llm_engine.add_request(feature.name, prompt, parameters, **more)


def _reached(request: Request, phase: str) -> bool:
    """Whether the request is where it is to be aborted."""
    return {
        "abort waiting": True,
        "abort in prefill": 0 < request.num_computed_tokens < request.num_prompt_tokens,
        "abort in decode": request.num_output_tokens >= 2,
        "abort preempted": request.status.name == "PREEMPTED",
    }[phase]


def _ask(llm: LLM, features: list[Feature]) -> dict[str, Answer]:
    """The answers of ``features``, asked side by side."""
    answers: dict[str, Answer] = {}
    engine = llm.llm_engine
    scheduler = engine.engine_core.engine_core.scheduler
    outputs: dict[str, RequestOutput] = {}
    to_abort: dict[str, str] = {}
    for number, feature in enumerate(features):
        answers[feature.name] = _send(llm, feature, priority=number % 3)
        if feature.kind.startswith("abort"):
            to_abort[feature.name] = feature.kind
    for _ in range(_MOST_STEPS):
        for request in list(scheduler.requests.values()):
            name = request.request_id[:-9]  # vLLM 0.23.0 adds nine characters of its own
            if name in to_abort and _reached(request, to_abort[name]):
                engine.abort_request([name])
                answers[name].aborted = True
                del to_abort[name]
        if not engine.has_unfinished_requests():
            break
        for output in engine.step():
            outputs[output.request_id] = output
    else:
        raise AssertionError(f"still running: {list(scheduler.requests)}")
    for name, output in outputs.items():
        _write(answers[name], output)
    return answers


def _write(answer: Answer, output: RequestOutput) -> None:
    for said in output.outputs:
        answer.said.append((list(said.token_ids), said.text, str(said.finish_reason)))
        if said.logprobs is not None:
            answer.logprobs.append([_by_token(row) for row in said.logprobs])
    if output.prompt_logprobs is not None:
        answer.prompt_logprobs = [_by_token(row) for row in output.prompt_logprobs[1:]]


def _by_token(row: dict[int, Any]) -> dict[str, float]:
    return {str(token): value.logprob for token, value in row.items()}


def _search_beams(llm: LLM, feature: Feature) -> Answer:
    from vllm.sampling_params import BeamSearchParams

    prompt = {"prompt_token_ids": feature.prompt}
    try:
        beams = llm.beam_search([prompt], BeamSearchParams(**feature.sampling), use_tqdm=False)
    except Exception as error:
        return Answer(refused=f"{type(error).__name__}: {error}")
    return Answer(
        said=[
            (beam.tokens[len(feature.prompt) :], beam.text, str(beam.finish_reason))
            for beam in beams[0].sequences
        ]
    )


def _can_be_drafted(feature: Feature) -> bool:
    """Whether a batch of such requests has its drafts verified on CPU."""
    greedy = feature.sampling.get("temperature", 0) == 0
    return greedy and "logprob_token_ids" not in feature.sampling


def ask_all(options: Options) -> Report:
    from vllm import LLM
    from vllm.v1.metrics.reader import Counter

    llm = LLM(**options.engine)
    report = Report()
    block_pool = llm.llm_engine.engine_core.engine_core.scheduler.kv_cache_manager.block_pool
    free_blocks = block_pool.get_num_free_blocks()
    beams = [feature for feature in options.features if feature.kind == "beam"]
    others = [feature for feature in options.features if feature.kind != "beam"]
    if options.among_greedy:
        report.among_greedy = _ask(llm, [each for each in others if _can_be_drafted(each)])
    for _ in range(options.rounds):
        for features in [others] if options.side_by_side else [[each] for each in others]:
            report.answers |= _ask(llm, features)
        for feature in beams:
            report.answers[feature.name] = _search_beams(llm, feature)
    report.leaked_blocks = free_blocks - block_pool.get_num_free_blocks()
    report.prefill_steps = llm.collective_rpc("gdn_stats")[0]["prefill_steps"]
    report.counters = {
        each.name: each.value for each in llm.get_metrics() if isinstance(each, Counter)
    }
    return report


def main(options_file: str, result_file: str) -> None:
    values = json.loads(Path(options_file).read_text())
    values["features"] = [Feature(**feature) for feature in values["features"]]
    Path(result_file).write_text(json.dumps(asdict(ask_all(Options(**values)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
