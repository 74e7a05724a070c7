# SPDX-License-Identifier: Apache-2.0
"""The course of a comparison: starts, rounds in turn, profiles, and the file they are kept in."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from serving.arms import OURS, Arm, rotated
from serving.engine import Engine
from serving.loads import Load
from serving.report import Round, RoundFailedError, add_device_busy, rounds_as_json, summary
from serving.servers import VLLMServer

Started = Engine | VLLMServer
say = partial(print, flush=True)


class Comparison:
    """The rounds so far, and the file that they are kept in."""

    def __init__(
        self,
        options: argparse.Namespace,
        model: str,
        arms: Sequence[Arm],
        loads: Sequence[Load],
        make: Callable[[Arm, Path], Started],
    ) -> None:
        """``model``: its folder. ``make`` is given an arm and where its log goes."""
        self.options, self.arms, self.loads, self.make = options, arms, loads, make
        self.rounds: list[Round] = []
        self.about: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "command": sys.argv[1:],
            "model": Path(model).name,
            "model_config": json.loads(Path(model, "config.json").read_text()),
            "arms": {arm.name: {"flags": arm.flags, "cores": sorted(arm.cores)} for arm in arms},
            "loads": [vars(load) for load in loads],
            "start_seconds": {arm.name: [] for arm in arms},
            "profile": {},
        }

    def run(self) -> None:
        together = self.options.servers == "together"
        for start in range(self.options.starts):
            for arms in [self.arms] if together else [[arm] for arm in self.arms]:
                with ExitStack() as stack:
                    self._measure(self._started(stack, arms, start), start)

    def _started(self, stack: ExitStack, arms: Sequence[Arm], start: int) -> list[Started]:
        started = []
        # A share of the memory that is free is taken by one that looks at it alone.
        at_once = self.options.starting or (len(arms) if self.options.named_model else 1)
        for first in range(0, len(arms), at_once):
            entered = []
            for arm in arms[first : first + at_once]:
                made = self.make(arm, self.options.out / f"{arm.name}-{start}.log")
                say(f"starting {arm.name} on cores {sorted(arm.cores)}: {' '.join(arm.flags)}")
                entered.append(stack.enter_context(made))
            for each in entered:
                seconds = each.wait_until_up(self.options.start_timeout, say)
                say(f"{each.arm.name} is up after {seconds:.0f} s")
                self.about["start_seconds"][each.arm.name].append(round(seconds, 1))
            started += entered
        return started

    def _measure(self, started: Sequence[Started], start: int) -> None:
        for number, load in enumerate(self.loads):
            # New prompts in each round, so that no cache has them; the same for all arms.
            seeds = iter(range(1000 * number, 1000 * (number + 1)))
            seed = next(seeds)
            for each in started:
                self._round(each, load.warm_up(), start, 0, seed)
            for index in range(self.options.rounds):
                seed = next(seeds)
                for each in rotated(started, index):
                    self.rounds.append(self._round(each, load, start, index, seed))
                self.write(complete=False)
        for each in started:
            if each.arm.side == OURS:
                counts = self.about.setdefault("gdn_stats", {})
                counts[each.arm.name] = each.call_workers("gdn_stats")
        for load in self.loads:
            for each in started:
                if isinstance(each, Engine) and each.traces is not None:
                    self._profile(each, load)

    def _round(self, each: Started, load: Load, start: int, index: int, seed: int) -> Round:
        began = time.monotonic()
        try:
            metrics, raw = each.measure(load, seed)
        except RoundFailedError as error:
            where = f"{each.arm.name}, {load.name}, round {index + 1}"
            raise RoundFailedError(f"{where}: {error}") from error
        figures = ", ".join(f"{key} {value:.2f}" for key, value in metrics.items())
        seconds = time.monotonic() - began
        say(f"[{seconds:5.1f} s] {load.name}, round {index + 1}, {each.arm.name}: {figures}")
        return Round(load.name, start, index, each.arm.name, metrics, raw)

    def _profile(self, engine: Engine, load: Load) -> None:
        costs = engine.costs(load, seed=1000 * len(self.loads))
        self.about["profile"].setdefault(load.name, {})[engine.arm.name] = costs
        figures = ", ".join(f"{name} {value:.2f}" for name, value in costs.items())
        say(f"{load.name}, {engine.arm.name}, a run with the profiler on: {figures}")
        self.write(complete=False)

    def write(self, complete: bool) -> dict[str, Any]:
        """Write results.json; returns what is in it."""
        average = statistics.mean if self.options.protocol else statistics.median
        figures = summary(self.rounds, self.loads, self.arms, average)
        add_device_busy(figures, self.about["profile"])
        results = self.about | {
            "complete": complete,
            "summary": figures,
            "rounds": rounds_as_json(self.rounds),
        }
        (self.options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        return results
