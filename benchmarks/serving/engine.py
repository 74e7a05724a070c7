# SPDX-License-Identifier: Apache-2.0
"""An engine in a process of its own, without a server: what a step takes, and little else.

All prompts of a load reach the scheduler before its first step, and no other process and no
connection is in what is measured.
"""

from __future__ import annotations

import json
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from server_log import first_error, hint, last_lines
from serving.arms import Arm, on_cores
from serving.loads import Load
from serving.report import RoundFailedError
from serving.trace import read_trace, run_costs

PROFILED_RUNS = 2
PATIENCE = 600.0
"""Seconds within which an engine that is up answers."""
# Less of what costs time while the profiler runs, or to write its trace.
PROFILER_OPTIONS = {
    "profiler": "torch",
    "torch_profiler_with_stack": False,
    "torch_profiler_dump_cuda_time_total": False,
}


class EngineError(RuntimeError):
    """The engine did not come up, or went away; the message holds the end of its log."""


class Engine:
    """``arm``'s engine, started on entering and ended on leaving."""

    def __init__(
        self,
        arm: Arm,
        model: str,
        log: Path,
        traces: Path | None,
        runs: int,
        command: Sequence[str] = (sys.executable, "-m", "serving.engine_process"),
    ) -> None:
        """With ``traces``, a folder, it can be profiled; ``runs`` are made in a row."""
        self.arm, self.log, self.traces, self.runs = arm, log, traces, runs
        self.command = [*command]
        self.flags = ["--model", model, "--disable-log-stats", *arm.flags]
        if traces is not None:
            config = {**PROFILER_OPTIONS, "torch_profiler_dir": str(traces.resolve())}
            self.flags += ["--profiler-config", json.dumps(config)]
        paths = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(":")]
        self.environment = arm.environment | {
            "PYTHONPATH": ":".join(filter(None, paths)),
            "PYTHONSAFEPATH": "1",  # the current folder may hold a package that is named fla
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # idle means idle: no process polls
        }

    def __enter__(self) -> Engine:
        self._began = time.monotonic()
        answers, into = os.pipe()
        self._answers = os.fdopen(answers)
        with self.log.open("wb") as output, on_cores(self.arm.cores):
            self._process = subprocess.Popen(
                [*self.command, str(into), *self.flags],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[into],
                text=True,
                start_new_session=True,  # so that what it starts can be ended with it
            )
        os.close(into)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._answers.close()

    def wait_until_up(self, timeout: float, say: Callable[[str], None]) -> float:
        """Returns the seconds since it was started; raises EngineError if it does not come up."""
        self._answer(timeout)
        return time.monotonic() - self._began

    def measure(self, load: Load, seed: int) -> tuple[dict[str, float], list[float]]:
        """The figures of some runs in a row, and the seconds that each took.

        Raises:
            RoundFailedError: Not all tokens came.
        """
        done = self._run(load, seed, self.runs)
        return figures_of(load, done), [max(run["last"]) for run in done]

    def costs(self, load: Load, seed: int) -> dict[str, float]:
        """Where the time of a run goes, by torch's profiler.

        From then on each step is marked for it, which takes time: nothing is measured after.
        """
        assert self.traces is not None
        self._call("start_profile")
        self._run(load, seed, PROFILED_RUNS)
        self._call("stop_profile")
        return run_costs(read_trace(self.traces), PROFILED_RUNS)

    def call_workers(self, method: str) -> list[Any]:
        """What ``method`` of each worker returns."""
        return self._call("call_workers", method=method)

    def _run(self, load: Load, seed: int, count: int) -> list[dict[str, Any]]:
        return self._call(
            "runs",
            count=count,
            seed=seed,
            prompts=load.num_prompts,
            tokens=load.input_len,
            generated=load.output_len,
        )

    def _call(self, call: str, **arguments: object) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([call, arguments]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failed(f"ended with code {self._process.wait()}") from error
        return self._answer(PATIENCE)

    def _answer(self, timeout: float) -> Any:
        until = time.monotonic() + timeout
        # One answer to one question: none is left in the reader's buffer. What the engine has
        # started may hold the pipe open after its end.
        while not select.select([self._answers], [], [], 0.5)[0]:
            if self._process.poll() is not None:
                raise self._failed(f"ended with code {self._process.returncode}")
            if time.monotonic() > until:
                raise self._failed(f"says nothing for {timeout:.0f} s")
        line = self._answers.readline()
        if not line:
            raise self._failed(f"ended with code {self._process.wait()}")
        return json.loads(line)

    def _failed(self, what: str) -> EngineError:
        lines = [f"{self.arm.name}: the engine {what}. The end of its log:"]
        lines += last_lines(self.log, 20)
        if found := first_error(self.log):
            lines.append(f"First error in it: {found}")
        lines.append(f"What to do: {hint(self.log, what)}.")
        return EngineError("\n".join([*lines, f"The whole log: {self.log}"]))


def figures_of(load: Load, done: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Medians over runs; where answers are of one token the prompts' tokens a second count."""
    expected = load.num_prompts * load.output_len
    for run in done:
        if run["tokens"] != expected:
            raise RoundFailedError(f"{run['tokens']} tokens came, and {expected} were asked for")
    seconds = statistics.median(max(run["last"]) for run in done)
    figures = {
        "latency_ms": 1e3 * seconds,
        "median_ttft_ms": 1e3 * statistics.median(t for run in done for t in run["first"]),
    }
    if load.decodes:
        each = [
            (last - first) / (load.output_len - 1)
            for run in done
            for first, last in zip(run["first"], run["last"], strict=True)
        ]
        figures["mean_tpot_ms"] = 1e3 * statistics.mean(each)
        figures["output_throughput"] = expected / seconds
    else:
        figures["prompt_throughput"] = load.num_prompts * load.input_len / seconds
    return figures
