# SPDX-License-Identifier: Apache-2.0
"""The device's time for one GDN layer's prefill on CUDA: our kernels against vLLM 0.23.0's.

    benchmarks/bench_cuda_gdn_core.py [--rounds 5] [--json FILE] [--kernels]

The sum over all kernels between projection and norm, by torch's profiler, at Qwen3-Next's heads on
one rank and on a rank of four. The sides take turns. "floor" is what the card needs to read the
inputs and write the outputs and states once each, at the rate of a large copy measured beside.
"""

from __future__ import annotations

import json
from collections import Counter
from statistics import geometric_mean, median

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import harness_path  # noqa: F401
from both_sides.cuda_layers import forward_context, our_layer, stock_layer
from both_sides.lone_layers import Activations, LayerSizes
from both_sides.workloads import OursOnCuda, Theirs, Workload, prefills
from command_line import parser_of, require_cuda

DEVICE = torch.device("cuda")
BLOCKS = 1 + 256  # of the first group, a block a request
CALLS = 5
WORKLOADS = (
    prefills("1 x 512", [512]),
    prefills("1 x 2048", [2048]),
    prefills("1 x 8192", [8192]),
    prefills("4 x 2048", [2048] * 4),
    prefills("16 x 512", [512] * 16),
    prefills("16 x 2048", [2048] * 16),
    prefills("64 x 128", [128] * 64),
)


def device_us(layer, metadata, activations: Activations) -> Counter[str]:
    """Microseconds a call of each kernel."""
    with torch.inference_mode(), forward_context(metadata):
        layer._forward_core(*activations.arguments())
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as trace:
            for _ in range(CALLS):
                layer._forward_core(*activations.arguments())
            torch.cuda.synchronize()
    times: Counter[str] = Counter()
    for event in trace.events():
        if event.device_type == DeviceType.CUDA:
            times[event.name] += event.self_device_time_total / CALLS
    return times


def bytes_per_us() -> float:
    """Read and written by a large copy."""
    source, start, end = torch.empty(2**30, dtype=torch.uint8, device=DEVICE), *(
        torch.cuda.Event(enable_timing=True) for _ in range(2)
    )  # fmt: skip
    target = torch.empty_like(source)
    target.copy_(source)
    start.record()
    for _ in range(10):
        target.copy_(source)
    end.record()
    end.synchronize()
    return 2 * 2**30 * 10 / (start.elapsed_time(end) * 1e3)


def compare(workload: Workload, ranks: int, rounds: int) -> tuple[list[Counter[str]], LayerSizes]:
    """The kernels of vLLM's median round, and of ours."""
    sizes = LayerSizes(16 // ranks, 32 // ranks)
    activations = Activations.of(sizes, workload.num_tokens).to(DEVICE)
    sides = []
    for side_cls, make in ((Theirs, stock_layer), (OursOnCuda, our_layer)):
        side = side_cls(workload, DEVICE)
        layer = make(sizes=sizes, num_spec=0, blocks=BLOCKS, device=DEVICE)
        sides.append((layer, side.step(side.batch.common_metadata())[0], side))
    times: list[list[Counter[str]]] = [[], []]
    for round_ in range(rounds):
        for which in (0, 1) if round_ % 2 else (1, 0):
            layer, metadata, _ = sides[which]
            times[which].append(device_us(layer, metadata, activations))
    return [sorted(each, key=lambda kernels: kernels.total())[rounds // 2] for each in times], sizes


def main() -> None:
    parser = parser_of(__doc__.splitlines()[0], rounds=5)
    parser.add_argument("--kernels", action="store_true", help="also print each kernel's time")
    arguments = parser.parse_args()
    require_cuda(parser)
    rate, rows, ratios = bytes_per_us(), [], []
    print(f"{torch.cuda.get_device_name()}, a copy moves {rate / 1e6:.2f} TB/s")
    print(f"{'':12} {'ranks':>5} {'vLLM us':>9} {'ours us':>9} {'ratio':>6} {'floor us':>9}")
    for ranks in (1, 4):
        for workload in WORKLOADS:
            (theirs, ours), sizes = compare(workload, ranks, arguments.rounds)
            values, states = sizes.value_heads * sizes.head_dim, len(workload.lengths)
            moved = workload.num_tokens * 2 * (sizes.conv_dim + values)
            floor = (moved + states * 4 * values * sizes.head_dim) / rate
            ratios.append(theirs.total() / ours.total())
            print(
                f"{workload.name:12} {ranks:5} {theirs.total():9.1f} {ours.total():9.1f} "
                f"{ratios[-1]:6.2f} {floor:9.1f}",
                flush=True,
            )
            if arguments.kernels:
                for kernels in (theirs, ours):
                    for name, time in kernels.most_common():
                        print(f"    {time:8.1f}  {name[:80]}")
            rows.append(
                {
                    "workload": workload.name,
                    "ranks": ranks,
                    "vllm_us": theirs.total(),
                    "ours_us": ours.total(),
                    "floor_us": floor,
                    "vllm_kernels_us": theirs,
                    "kernels_us": ours,
                }
            )
    print(
        f"geometric mean {geometric_mean(ratios):.2f}, median {median(ratios):.2f}, "
        f"worst {min(ratios):.2f}"
    )
    if arguments.json:
        result = {"device": torch.cuda.get_device_name(), "bytes_per_us": rate, "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
