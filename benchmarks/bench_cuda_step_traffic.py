# SPDX-License-Identifier: Apache-2.0
"""What the GDN metadata of one step costs the device, counted by torch's profiler.

    benchmarks/bench_cuda_step_traffic.py

prints the counts for vLLM 0.23.0's builders and ours, three KV cache groups, on the CUDA device.
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table

import harness_path  # noqa: F401
from both_sides.step_traffic import traffic_of_a_step
from both_sides.workloads import GROUPS, WORKLOADS, OursOnCuda, Theirs
from command_line import require_cuda


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    require_cuda(parser)
    device = torch.device("cuda")
    table = Table(title=f"Device traffic of one step's GDN metadata, {GROUPS} groups")
    columns = ("step", "side", "pinned", "pageable", "to host", "kernels", "waits")
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:2] else "right")
    for workload in WORKLOADS:
        sides = {
            "vLLM 0.23.0": Theirs(workload, device),
            "ascend-gdn, host fill": OursOnCuda(workload, device),
            "ascend-gdn, Triton fill": OursOnCuda(workload, device, "triton"),
        }
        for name, side in sides.items():
            counts = (str(count) for count in vars(traffic_of_a_step(side)).values())
            table.add_row(workload.name, name, *counts)
        table.add_section()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
