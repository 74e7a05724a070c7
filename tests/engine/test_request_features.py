# SPDX-License-Identifier: Apache-2.0
"""Every feature of a request in every mode of the engine, side by side: right, or refused alone."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import pytest

from .feature_list import features
from .features import Answer, Options, Report
from .job import ENVIRONMENT, OUR_WORKER
from .processes import run_to_the_end
from .test_recall import MODEL, MTP, PREFIX_CACHING

pytestmark = pytest.mark.engine

ENGINE = {
    "model": str(MODEL),
    "dtype": "float32",
    "worker_cls": OUR_WORKER,
    "enforce_eager": True,
    "mamba_ssm_cache_dtype": "float32",
    "max_model_len": 2048,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 256,
    "enable_prefix_caching": False,  # vLLM 0.30.0 caches unless it is told
    "scheduling_policy": "priority",
    "disable_log_stats": False,
}
PLAIN = {"max_num_batched_tokens": 2048}
SMALL_CACHE = {
    "num_gpu_blocks_override": 40,
    "scheduler_reserve_full_isl": False,
    "long_prefill_token_threshold": 64,
}
ALIGNED = {**PREFIX_CACHING, **MTP}
MODES = {
    "chunked": {"max_num_batched_tokens": 96},
    "preempted": SMALL_CACHE,
    "MTP": MTP | {"max_num_batched_tokens": 96},
    "align": PREFIX_CACHING,
    "align, MTP": ALIGNED,
}
REFUSED_WITH_MTP = ("seed, min_p", "logit_bias /")
TOLERANCE = 1e-4
"""Of a logprob, float32."""


def ask(folder: Path, **options) -> Report:
    folder.mkdir()
    (folder / "options.json").write_text(
        json.dumps(asdict(Options(features=features(), **options)))
    )
    command = [sys.executable, str(Path(__file__).with_name("features.py"))]
    command += [str(folder / "options.json"), str(folder / "report.json")]
    process = run_to_the_end(command, ENVIRONMENT, folder, timeout=850)
    assert process.returncode == 0, f"the engine failed:\n{process.stdout[-6000:]}"
    report = Report(**json.loads((folder / "report.json").read_text()))
    for answers in (report.answers, report.among_greedy):
        answers.update({name: Answer(**answer) for name, answer in answers.items()})
    return report


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Report:
    """Each by itself, in one chunk."""
    return ask(
        tmp_path_factory.mktemp("features") / "plain", engine=ENGINE | PLAIN, side_by_side=False
    )


def differs(name: str, plain: Answer, found: Answer) -> str:
    """How ``found`` is not what it should be; empty if it is."""
    if plain.refused or found.refused:
        return "" if plain.refused == found.refused else f"refused: {found.refused!r}"
    if name.startswith("abort"):
        return ""  # the others are what counts
    said, expected = found.said, plain.said
    if name.startswith("stop /"):
        # With MTP the tokens go on to the end of the step, the text does not.
        said, expected = ([each[1:] for each in answers] for answers in (said, expected))
    if said != expected:
        return f"said {said}, plain {expected}"
    rows = zip(
        chain(*found.logprobs, found.prompt_logprobs),
        chain(*plain.logprobs, plain.prompt_logprobs),
        strict=True,
    )
    for one, other in rows:
        if one.keys() != other.keys() or any(
            abs(one[token] - other[token]) > TOLERANCE for token in one
        ):
            return f"logprobs {one}, plain {other}"
    return ""


def cell(name: str, plain: Report, found: Report) -> str:
    """What the table has for a feature in a mode; begins with WRONG if it is."""
    for answers in (found.among_greedy, found.answers):
        if name in answers and (wrong := differs(name, plain.answers[name], answers[name])):
            if name.startswith(REFUSED_WITH_MTP) and "speculative decoding" in wrong:
                return "refused"
            return f"WRONG: {wrong}"
    if plain.answers[name].refused:
        return "refused"
    if name.startswith("abort"):
        return "aborted" if found.answers[name].aborted else "not reached"
    return "right"


def happened(mode: str, report: Report) -> bool:
    """Whether the engine did what the mode is about."""
    count = report.counters
    return (
        report.prefill_steps > 3 * len(report.answers) / 2  # in chunks, where nothing is cached
        or "align" in mode
    ) and all(
        (
            mode != "preempted" or count["vllm:num_preemptions"] > 10,
            "MTP" not in mode or count["vllm:spec_decode_num_accepted_tokens"] > 500,
            "align" not in mode or count["vllm:prefix_cache_hits"] > 10_000,
        )
    )


@pytest.mark.parametrize(
    "mode",
    [
        # The two others have prompts in chunks too.
        pytest.param(mode, marks=[] if mode in ("preempted", "align, MTP") else [pytest.mark.slow])
        for mode in MODES
    ],
)
def test_right_or_refused_alone(mode: str, plain: Report, tmp_path: Path):
    report = ask(
        tmp_path / "found",
        engine=ENGINE | MODES[mode],
        rounds=2 if "align" in mode else 1,
        among_greedy="MTP" in mode,
    )
    cells = {name: cell(name, plain, report) for name in plain.answers}
    for name, found in cells.items():
        print(f"| {name} | {mode} | {found} |")
    print(Counter(found.split(":")[0] for found in cells.values()), report.counters)
    assert [(name, found) for name, found in cells.items() if found.startswith("WRONG")] == []
    assert cells["greedy at last / question"] == "right"
    assert report.leaked_blocks == 0
    assert happened(mode, report)
    if mode == "preempted":
        preempted = [found for name, found in cells.items() if name.startswith("abort preempted")]
        assert "aborted" in preempted
