# SPDX-License-Identifier: Apache-2.0
"""What the GDN metadata of one step costs the device, counted by torch's profiler."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from .workloads import Side

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
