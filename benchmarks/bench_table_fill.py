# SPDX-License-Identifier: Apache-2.0
"""Who makes a prefill step's chunk tables, the host or a Triton kernel: both on CUDA, in one run.

    benchmarks/bench_table_fill.py [--rounds 15] [--json FILE]

"host" is what the host does for a step of three KV cache groups until it is free again, "ready" the
time until the tables are on the device, which had nothing else to do.
"""

from __future__ import annotations

import json
import statistics
from time import perf_counter_ns

import torch
from rich.console import Console
from rich.table import Table

from bench_metadata_build import parser_of
from workloads import GROUPS, WORKLOADS, OursOnCuda, Side, prefills

CUDA = torch.device("cuda")
STEPS_PER_ROUND = 50
ALL_WORKLOADS = (prefills("1 x 128", [128]), prefills("1 x 512", [512]), *WORKLOADS)


def microseconds_a_step(side: Side) -> tuple[float, float]:
    """Until the host is free, and until the tables are on the device."""
    inputs = [side.batch.common_metadata() for _ in range(STEPS_PER_ROUND)]
    host = ready = 0
    for common in inputs:
        torch.cuda.synchronize()
        started = perf_counter_ns()
        side.step(common)
        host += perf_counter_ns() - started
        torch.cuda.synchronize()
        ready += perf_counter_ns() - started
    return host / STEPS_PER_ROUND / 1e3, ready / STEPS_PER_ROUND / 1e3


def main() -> None:
    arguments = parser_of(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)  # the engine builds metadata on one thread
    table = Table(title=f"A step's tables, {GROUPS} groups, microseconds, by who fills them")
    for column in (
        "workload",
        "host: host",
        "ready",
        "triton: host",
        "ready",
        "ratio: host",
        "ready",
    ):
        table.add_column(column, justify="left" if column == "workload" else "right")
    results = {}
    for workload in ALL_WORKLOADS:
        sides = [OursOnCuda(workload, CUDA, fill) for fill in ("host", "triton")]
        with torch.inference_mode():  # as vLLM's execute_model runs
            for side in sides:
                microseconds_a_step(side)  # warm up
            rounds = [
                [time for side in sides for time in microseconds_a_step(side)]
                for _ in range(arguments.rounds)
            ]
        medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
        names = ("host_fill_host_us", "host_fill_ready_us", "triton_host_us", "triton_ready_us")
        results[workload.name] = dict(zip(names, medians, strict=True))
        ratios = (medians[2] / medians[0], medians[3] / medians[1])
        table.add_row(
            workload.name,
            *(f"{each:.0f}" for each in medians),
            *(f"{each:.2f}x" for each in ratios),
        )
    Console(width=110).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
