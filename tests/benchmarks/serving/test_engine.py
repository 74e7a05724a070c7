# SPDX-License-Identifier: Apache-2.0
"""An engine in its process, and the figures of its runs: with a stand-in, and for real."""

from __future__ import annotations

import json
import sys

import psutil
import pytest

from serving.arms import Arm
from serving.engine import Engine, EngineError, figures_of
from serving.loads import burst
from serving.report import RoundFailedError
from tiny_checkpoint import TinySizes, write_checkpoint

# Answers as engine_process does, prints as vLLM does, and ends when it is asked for 13 tokens.
STAND_IN = """
import json, os, sys
answers = os.fdopen(int(sys.argv[1]), "w", buffering=1)
if "--fail" in sys.argv:
    raise MemoryError("no memory for the stand-in")
print("a line of vLLM's", flush=True)
answers.write("null\\n")
for line in sys.stdin:
    call, arguments = json.loads(line)
    print("called", call, flush=True)
    if call == "call_workers":
        answer = [sys.argv[2:], sorted(os.sched_getaffinity(0))]
    elif arguments["tokens"] == 13:
        sys.exit(3)
    else:
        tokens = arguments["prompts"] * arguments["generated"]
        answer = [{"first": [0.1], "last": [0.2], "tokens": tokens}] * arguments["count"]
    answers.write(json.dumps(answer) + "\\n")
"""


def stand_in(tmp_path, *flags: str) -> Engine:
    file = tmp_path / "stand_in.py"
    file.write_text(STAND_IN)
    core = min(psutil.Process().cpu_affinity())
    arm = Arm("ours", None, flags, frozenset({core}))
    return Engine(arm, "model", tmp_path / "log", None, runs=3, command=[sys.executable, str(file)])


def test_is_asked_and_answers_whatever_vllm_prints(tmp_path):
    with stand_in(tmp_path, "--a-flag") as engine:
        assert engine.wait_until_up(60, print) > 0
        figures, seconds = engine.measure(burst("2x8"), seed=1)
        assert figures["latency_ms"] == pytest.approx(200)
        assert seconds == [0.2] * 3
        flags, cores = engine.call_workers("gdn_stats")
        assert flags[:2] == ["--model", "model"]
        assert flags[-1] == "--a-flag"
        assert cores == sorted(engine.arm.cores)
        process = psutil.Process(engine._process.pid)
    assert not process.is_running()
    assert "called runs" in (tmp_path / "log").read_text()


def test_one_that_does_not_start_says_why(tmp_path):
    with (
        stand_in(tmp_path, "--fail") as engine,
        pytest.raises(EngineError, match=r"(?s)ended with code 1.*no memory.*The whole log: "),
    ):
        engine.wait_until_up(60, print)


def test_one_that_ends_under_a_load_says_so(tmp_path):
    with stand_in(tmp_path) as engine:
        engine.wait_until_up(60, print)
        for _ in range(2):
            with pytest.raises(EngineError, match="ours: the engine ended with code 3"):
                engine.measure(burst("1x13"), seed=1)


def test_one_that_is_silent_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.engine.PATIENCE", 0.1)
    with stand_in(tmp_path) as engine:
        engine.wait_until_up(60, print)
        psutil.Process(engine._process.pid).suspend()
        with pytest.raises(EngineError, match="says nothing for 0 s"):
            engine.measure(burst("1x8"), seed=1)


def run(tokens: int, first: list[float], last: list[float]) -> dict[str, object]:
    return {"first": first, "last": last, "tokens": tokens}


def test_figures_of_prefills_are_medians_over_runs():
    done = [run(2, [t, 2 * t], [t, 2 * t]) for t in (0.1, 0.2, 9.0)]
    assert figures_of(burst("2x50"), done) == {
        "latency_ms": pytest.approx(400),
        "median_ttft_ms": pytest.approx(300),
        "prompt_throughput": pytest.approx(100 / 0.4),
    }


def test_figures_of_answers_have_a_time_for_each_token_after_the_first():
    done = [run(10, [0.1, 0.2], [0.5, 0.4])]
    figures = figures_of(burst("2x50+5"), done)
    assert figures["mean_tpot_ms"] == pytest.approx((100 + 50) / 2)
    assert figures["output_throughput"] == pytest.approx(10 / 0.5)


def test_tokens_that_did_not_come_are_no_figures():
    with pytest.raises(RoundFailedError, match="9 tokens came, and 10 were asked for"):
        figures_of(burst("2x50+5"), [run(9, [0.1, 0.2], [0.5, 0.4])])


@pytest.mark.engine
def test_a_real_engine(tmp_path):
    model = write_checkpoint(tmp_path / "model", TinySizes(dtype="float32", layers=4, head_dim=64))
    flags = ("--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "4")
    flags += ("--mamba-ssm-cache-dtype", "float32", "--gpu-memory-utilization", "0.1")
    arm = Arm("ours", None, (*flags, "--worker-cls", "ascend_gdn.runner.CPUWorker"),
              frozenset(psutil.Process().cpu_affinity()))  # fmt: skip
    with Engine(arm, str(model), tmp_path / "log", tmp_path / "traces", runs=2) as engine:
        engine.wait_until_up(300, print)
        figures, seconds = engine.measure(burst("3x20+4"), seed=1)
        assert len(seconds) == 2
        assert figures["latency_ms"] > figures["median_ttft_ms"] > figures["mean_tpot_ms"] > 0
        assert engine.call_workers("gdn_stats")[0]["prefill_steps"] > 0
        costs = engine.costs(burst("3x20+4"), seed=2)
        # All three prompts are in the scheduler before its first step.
        assert costs["steps"] == 4
        assert costs["gdn_layers"] == 4 * 3
        json.dumps([figures, seconds, costs])
