# SPDX-License-Identifier: Apache-2.0
"""What the host does for one launch of one of vLLM's tuned Triton kernels: Triton's way and ours.

benchmarks/bench_cuda_launch.py
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from time import perf_counter_ns

import torch
from vllm.model_executor.layers.fla.ops.cumsum import chunk_local_cumsum_scalar_kernel

from ascend_gdn.fla.cuda.launch import current_stream
from ascend_gdn.fla.cuda.vllm.tuned_kernel import TunedKernel
from command_line import require_cuda

DEVICE = torch.device("cuda", 0)
LAUNCHES, ROUNDS = 200, 15
CONSTANTS = {"B": 1, "H": 32, "BT": 64, "REVERSE": False, "HEAD_FIRST": False}


def microseconds_a_launch(launch: Callable[[], object]) -> float:
    samples = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        started = perf_counter_ns()
        for _ in range(LAUNCHES):
            launch()
        samples.append((perf_counter_ns() - started) / LAUNCHES / 1e3)
    return statistics.median(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    require_cuda(parser)
    g = torch.randn(512, 32, device=DEVICE)
    out = torch.empty_like(g)
    tables = torch.tensor([0, 512, *(n for i in range(8) for n in (0, i))], dtype=torch.int32)
    cu_seqlens, chunk_indices = tables.to(DEVICE).split([2, 16])
    args = (g, out, cu_seqlens, chunk_indices, 512)
    kernel = TunedKernel(chunk_local_cumsum_scalar_kernel, **CONSTANTS)
    ways = {
        "Triton's heuristics, tuner and binder": lambda: chunk_local_cumsum_scalar_kernel[(8, 32)](
            *args, **CONSTANTS
        ),
        "TunedKernel": lambda: kernel(lambda _: (8, 32, 1), current_stream(DEVICE), *args),
        "an empty tensor, for comparison": lambda: torch.empty_like(g),
    }
    for name, launch in ways.items():
        microseconds_a_launch(launch)  # tunes and compiles
        print(f"{name:40s} {microseconds_a_launch(launch):6.1f} us")


if __name__ == "__main__":
    main()
