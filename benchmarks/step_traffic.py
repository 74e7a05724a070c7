# SPDX-License-Identifier: Apache-2.0
"""What the GDN metadata of one step costs the device, counted by torch's profiler.

    benchmarks/step_traffic.py

prints the counts for vLLM 0.23.0's builders and ours, three KV cache groups, on the CUDA device.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from command_line import require_cuda
from workloads import GROUPS, WORKLOADS, OursOnCuda, Side, Theirs

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass
class Traffic:
    """Counts of one step, of all groups."""

    pinned_copies: int = 0
    pageable_copies: int = 0
    copies_to_host: int = 0
    kernels: int = 0
    waits: int = 0
    """Times that the host waited for the device, copies from pageable memory not counted."""


def traffic_of_a_step(side: Side) -> Traffic:
    """Profile one step of ``side``, after two to warm up."""
    with torch.inference_mode():
        for _ in range(2):
            side.step(side.batch.common_metadata())
        common = side.batch.common_metadata()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            with torch.profiler.record_function("step"):
                side.step(common)
            torch.cuda.synchronize()
    events = profiler.events()
    step = next(event for event in events if event.name == "step" and event.cpu_time_total > 0)
    traffic = Traffic()
    for event in events:
        name = event.name
        if event.device_type == torch.autograd.DeviceType.CUDA:
            if name.startswith("Memcpy HtoD"):
                if "Pinned" in name:
                    traffic.pinned_copies += 1
                else:
                    traffic.pageable_copies += 1
            elif name.startswith("Memcpy DtoH"):
                traffic.copies_to_host += 1
            elif not name.startswith(("Memcpy", "Memset", "step")):
                traffic.kernels += 1
        elif name in WAITS and event.time_range.end <= step.time_range.end:
            traffic.waits += 1
    return traffic


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
