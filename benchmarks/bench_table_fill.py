# SPDX-License-Identifier: Apache-2.0
"""Who makes a prefill step's chunk tables, the host or a Triton kernel: both on CUDA, in one run.

    benchmarks/bench_table_fill.py [--rounds 9] [--json FILE]

"host" is what the host does for a step of three KV cache groups until it is free again, "ready" the
time until the tables are on the device, which had nothing else to do.
"""

from __future__ import annotations

from functools import partial
from time import perf_counter_ns

import torch

import harness_path  # noqa: F401
from both_sides.workloads import GROUPS, WORKLOADS, OursOnCuda, Side, prefills
from command_line import parser_of, require_cuda
from host_times import compare_host_times

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
    parser = parser_of(__doc__.splitlines()[0])
    arguments = parser.parse_args()
    require_cuda(parser)
    torch.set_num_threads(1)  # the engine builds metadata on one thread
    workloads = (
        (
            workload.name,
            tuple(
                partial(microseconds_a_step, OursOnCuda(workload, CUDA, fill))
                for fill in ("triton", "host")
            ),
        )
        for workload in ALL_WORKLOADS
    )
    compare_host_times(
        f"A step's tables, {GROUPS} groups, microseconds, by who fills them",
        ("triton: host", "ready", "host: host", "ready", "ratio: host", "ready"),
        (
            *("triton_host_us", "triton_ready_us", "host_fill_host_us", "host_fill_ready_us"),
            *("host_ratio", "ready_ratio"),
        ),
        workloads,
        arguments.rounds,
        arguments.json,
    )


if __name__ == "__main__":
    main()
