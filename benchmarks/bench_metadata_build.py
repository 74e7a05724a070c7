# SPDX-License-Identifier: Apache-2.0
"""Host time per step of the GDN metadata: ours against vLLM 0.23.0's builder, in one run.

    benchmarks/bench_metadata_build.py [--rounds 9] [--groups 3 12 48] [--device cuda] [--json FILE]
    benchmarks/bench_metadata_build.py --verify     ours in verify mode, against ours without

One step is a build for each KV cache group of GDN layers: three in Qwen3-Next, up to 48 where a
draft model or a single layer of attention has vLLM cut them smaller (vllm-project/vllm#49730). Ours
includes opening and closing the step and taking a slot from the pool. Both sides get the same
batches, one round of each in turn; the figures are medians over the rounds. On CPU tensors neither
pays for copies to a device: on a device vLLM pays for 4 to 11 copies a build, ours for one a step.
"""

from __future__ import annotations

import json
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from time import perf_counter_ns

import torch
from rich.console import Console
from rich.table import Table

import harness_path  # noqa: F401
from ascend_gdn.attention.verify import StepVerifier
from both_sides.workloads import (
    DECODE_WORKLOADS,
    WORKLOADS,
    Ours,
    OursOnCuda,
    Side,
    Theirs,
    Workload,
)
from command_line import parser_of, positive_int, require_cuda

STEPS_PER_ROUND = 20


def microseconds_a_step(side: Side) -> float:
    inputs = [side.batch.common_metadata() for _ in range(STEPS_PER_ROUND)]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = perf_counter_ns()
    for common in inputs:
        side.step(common)
    return (perf_counter_ns() - started) / STEPS_PER_ROUND / 1e3


def measure(sides: tuple[Side, Side], rounds: int) -> tuple[float, float]:
    """Return the medians of (upstream's, ours) in microseconds a step."""
    for side in sides:
        microseconds_a_step(side)  # warm up
    samples = [[microseconds_a_step(side) for side in sides] for _ in range(rounds)]
    upstream, own = (statistics.median(column) for column in zip(*samples, strict=True))
    return upstream, own


def compare(
    kind: str,
    upstream: str,
    sides_of: Callable[[Workload], tuple[Side, Side]],
    workloads: Iterable[Workload],
    arguments: Namespace,
    results: dict[str, dict[str, float]],
) -> None:
    """Print a table with a row for each workload, and add its figures to ``results``.

    Args:
        kind: Of the steps.
        upstream: Whose side is the other one.
        sides_of: Makes the two sides.
        workloads: A row each, in a table for each number of groups.
        arguments: Of the command line.
        results: By workload and groups.
    """
    for groups in arguments.groups:
        table = Table(title=f"GDN metadata, host microseconds a {kind} step, {groups} groups")
        for column in ("workload", upstream, "ascend-gdn", "ratio"):
            table.add_column(column, justify="left" if column == "workload" else "right")
        ratios = []
        for workload in workloads:
            with torch.inference_mode():  # as vLLM's execute_model runs
                sides = sides_of(replace(workload, groups=groups))
                theirs, ours = measure(sides, arguments.rounds)
            figures = {"upstream_us": theirs, "ascend_gdn_us": ours}
            results[f"{workload.name}, {groups} groups"] = figures
            ratios.append(theirs / ours)
            table.add_row(workload.name, f"{theirs:.0f}", f"{ours:.0f}", f"{ratios[-1]:.1f}x")
        table.add_section()
        table.add_row("geometric mean", "", "", f"{statistics.geometric_mean(ratios):.1f}x")
        table.add_row("worst", "", "", f"{min(ratios):.1f}x")
        Console().print(table)


def groups_parser(description: str) -> ArgumentParser:
    """With ``--groups`` as well."""
    parser = parser_of(description)
    parser.add_argument("--groups", type=positive_int, nargs="+", default=[3, 12, 48])
    return parser


def main() -> None:
    parser = groups_parser(__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--verify", action="store_true", help="compare verify mode with none")
    arguments = parser.parse_args()
    if arguments.device.type == "cuda":
        require_cuda(parser)
    device, ours = arguments.device, Ours if arguments.device.type == "cpu" else OursOnCuda
    torch.set_num_threads(1)  # the engine builds metadata on one thread
    results: dict[str, dict[str, float]] = {}

    def others(workload: Workload) -> Side:
        if not arguments.verify:
            return Theirs(workload, device)
        side = ours(workload, device)
        side.steps.verifier = StepVerifier(Path(gettempdir()))
        return side

    for kind, workloads in (("prefill", WORKLOADS), ("decode", DECODE_WORKLOADS)):
        compare(
            kind,
            "verify mode" if arguments.verify else "vLLM 0.23.0",
            lambda workload: (others(workload), ours(workload, device)),
            workloads,
            arguments,
            results,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
