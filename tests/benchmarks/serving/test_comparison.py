# SPDX-License-Identifier: Apache-2.0
"""The course of a comparison, with engines that only say what was asked of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.arms import arms_of
from serving.comparison import Comparison
from serving.loads import Load
from serving.options import parse
from serving.plot import plot
from serving.report import RoundFailedError, table


class FakeEngine:
    """Ours takes half of stock's 10 ms; each call is noted in ``calls``."""

    traces = None

    def __init__(self, arm, calls):
        self.arm, self.calls = arm, calls

    def note(self, what, *more):
        self.calls.append((what, self.arm.name, *more))

    def __enter__(self):
        self.note("start")
        return self

    def __exit__(self, *error):
        self.note("end")

    def wait_until_up(self, timeout, say):
        self.note("up")
        return 1.0

    def measure(self, load: Load, seed):
        self.note("measure", load.name, seed)
        if load.name == "1x13":
            raise RoundFailedError("no token came")
        return {"latency_ms": 10.0 if self.arm.side == "stock" else 5.0}, None

    def call_workers(self, method):
        return [{"steps": 1}]


def comparison(tmp_path, *arguments):
    (tmp_path / "config.json").write_text("{}")
    given = ["--out", str(tmp_path), "--model", str(tmp_path), "--rounds", "3"]
    options = parse([*given, "--worker-cls", "ascend_gdn.runner.CPUWorker", *arguments])
    calls: list[tuple[object, ...]] = []
    arms = arms_of(options)
    made = Comparison(
        options, str(tmp_path), arms, options.loads, lambda arm, log: FakeEngine(arm, calls)
    )
    return made, calls


def measured(calls, *loads):
    return [call[1:] for call in calls if call[0] == "measure" and call[2] in loads]


def test_arms_take_turns_another_first_each_time(tmp_path):
    made, calls = comparison(tmp_path, "--loads", "1x8")
    made.run()
    arms = ["stock-512", "ours-512", "stock-2048", "ours-2048"]
    assert [arm for arm, *_ in measured(calls, "1x8")] == [
        *arms, *arms[1:], arms[0], *arms[2:], *arms[:2]
    ]  # fmt: skip


def test_all_arms_have_the_same_prompts_and_no_round_has_anothers(tmp_path):
    made, calls = comparison(tmp_path, "--loads", "1x8", "4x8")
    made.run()
    by_arm: dict[str, list[int]] = {}
    for arm, _, seed in measured(calls, "1x8", "4x8", "1x8, warm-up", "4x8, warm-up"):
        by_arm.setdefault(arm, []).append(seed)
    assert len(by_arm) == 4
    seeds = by_arm["stock-512"]
    assert all(each == seeds for each in by_arm.values())
    assert len({*seeds}) == len(seeds) == 2 * (3 + 1)


@pytest.mark.parametrize(
    ("arguments", "order"),
    [
        ([], ["start", "up", "start", "up", "end", "end"]),
        (["--starting", "2"], ["start", "start", "up", "up", "end", "end"]),
        (["--servers", "turns"], ["start", "up", "end"] * 2),
        (["--servers", "turns", "--starts", "2"], ["start", "up", "end"] * 4),
    ],
)
def test_starts(tmp_path, arguments, order):
    made, calls = comparison(tmp_path, "--captures", "8", "--loads", "1x8", *arguments)
    made.run()
    assert [call[0] for call in calls if call[0] != "measure"] == order


def test_results_are_written_and_drawn(tmp_path):
    made, _ = comparison(tmp_path, "--loads", "1x8", "4x8")
    made.run()
    made.about["machine"] = {"device": "none"}
    made.about["profile"] = {"1x8": {"ours-512": {"device_busy_ms": 4.0}}}
    results = made.write(complete=True)
    assert json.loads((tmp_path / "results.json").read_text())["complete"]
    figures = results["summary"]["1x8"]
    assert figures["latency_ms"]["to_stock"]["ours-512"]["ratio"] == 0.5
    assert figures["times_device_busy"]["arms"] == {"ours-512": 1.25}
    assert results["gdn_stats"]["ours-512"] == [{"steps": 1}]
    assert "done / device busy" in table(results["summary"], made.arms)
    plot(json.loads((tmp_path / "results.json").read_text()), tmp_path / "results.png")
    assert (tmp_path / "results.png").stat().st_size > 1000


def test_a_round_that_is_not_whole_ends_it_and_keeps_the_rest(tmp_path):
    made, calls = comparison(tmp_path, "--loads", "1x8", "1x13")
    with pytest.raises(RoundFailedError, match="stock-512, 1x13, round 1: no token came"):
        made.run()
    assert {call[0] for call in calls[-4:]} == {"end"}
    written = json.loads(Path(tmp_path, "results.json").read_text())
    assert not written["complete"]
    assert [*written["summary"]] == ["1x8"]
