# SPDX-License-Identifier: Apache-2.0
"""The device's time for one GDN layer's prefill on CUDA: our kernels against vLLM 0.23.0's.

    benchmarks/bench_cuda_gdn_core.py [--rounds 3] [--ranks 1 4] [--json FILE] [--kernels]

The sum over all kernels between projection and norm, by torch's profiler, at Qwen3-Next's heads on
one rank and on a rank of four; "rule" is what of it is neither convolution nor gates: the chunked
rule, and the states' way from and to their blocks. Where FlashInfer is installed, with it both in
vLLM's layer and in ours; where fla-core is, its chunked rule alone. The sides take turns.

Beside it what the card needs at least: "bytes", to read the inputs and write the outputs and states
once each, at the rate of a large copy; "flops", for the rule's products by chunks of 64, at the
rate of a large product of bfloat16.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from statistics import geometric_mean, median

import torch
from torch.autograd import DeviceType
from torch.nn.functional import normalize
from torch.profiler import ProfilerActivity, profile

import harness_path  # noqa: F401
from both_sides.cuda_layers import forward_context, our_layer, stock_layer
from both_sides.lone_layers import Activations, LayerSizes
from both_sides.workloads import OursOnCuda, Theirs, Workload, prefills
from command_line import parser_of, require_cuda

DEVICE = torch.device("cuda")
BLOCKS = 1 + 256  # of the first group, a block a request
CALLS = 5
CHUNK = 64
MARK = "spin_kernel"
CONVOLUTION = "conv"
"""In the names of the kernels, of both sides, that convolve or make gates."""
WORKLOADS = (
    prefills("1 x 512", [512]),
    prefills("1 x 2048", [2048]),
    prefills("1 x 8192", [8192]),
    prefills("4 x 2048", [2048] * 4),
    prefills("16 x 512", [512] * 16),
    prefills("16 x 2048", [2048] * 16),
    prefills("64 x 128", [128] * 64),
)

Call = Callable[[], object]


def device_us(calls: list[Call]) -> list[Counter[str]]:
    """Microseconds of each kernel of each call."""
    with torch.inference_mode():
        for call in calls:
            call()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as trace:
            for call in calls:
                torch.cuda._sleep(1)  # a kernel to tell them apart by
                for _ in range(CALLS):
                    call()
            torch.cuda.synchronize()
    kernels = [event for event in trace.events() if event.device_type == DeviceType.CUDA]
    times: list[Counter[str]] = []
    for event in sorted(kernels, key=lambda event: event.time_range.start):
        if MARK in event.name:
            times.append(Counter())
        else:
            times[-1][event.name] += event.self_device_time_total / CALLS
    return times


def rates() -> tuple[float, float]:
    """Bytes a microsecond that a large copy reads and writes, and operations of a large product."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def us(call: Call) -> float:
        call()
        start.record()
        for _ in range(10):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / 10

    source = torch.empty(2**30, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    square = torch.randn(8192, 8192, dtype=torch.bfloat16, device=DEVICE)
    return 2 * 2**30 / us(lambda: target.copy_(source)), 2 * 8192**3 / us(lambda: square @ square)


def floors(workload: Workload, sizes: LayerSizes, rate: tuple[float, float]) -> dict[str, float]:
    """The least time, in microseconds, for the bytes and for the operations."""
    values, head_dim, tokens = sizes.value_heads * sizes.head_dim, sizes.head_dim, sum(
        workload.lengths
    )  # fmt: skip
    moved = tokens * 2 * (sizes.conv_dim + values) + len(workload.lengths) * 4 * values * head_dim
    # A token of a head: three products with the state, two with its chunk's values and keys each.
    products = tokens * sizes.value_heads * 2 * (3 * head_dim**2 + 4 * CHUNK * head_dim)
    return {"bytes": moved / rate[0], "flops": products / rate[1]}


def layer_call(workload: Workload, sizes: LayerSizes, ours: bool, backend: str) -> Call:
    """A layer's forward, over metadata that stays."""
    side = (OursOnCuda if ours else Theirs)(workload, DEVICE, prefill_backend=backend)
    layer = (our_layer if ours else stock_layer)(
        sizes=sizes, num_spec=0, blocks=BLOCKS, device=DEVICE, prefill_backend=backend
    )
    metadata = side.step(side.batch.common_metadata())[0]
    arguments = Activations.of(sizes, workload.num_tokens).to(DEVICE).arguments()

    def call(_: object = side) -> None:  # whose buffers the metadata is in
        with forward_context(metadata):
            layer._forward_core(*arguments)

    return call


def fla_core_call(workload: Workload, sizes: LayerSizes) -> Call:
    """fla-core's chunked rule."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    tokens, seqs, dim = workload.num_tokens, len(workload.lengths), sizes.head_dim
    q, k, v = (
        torch.randn(1, tokens, heads, dim, dtype=torch.bfloat16, device=DEVICE)
        for heads in (sizes.key_heads, sizes.key_heads, sizes.value_heads)
    )
    g = -torch.rand(1, tokens, sizes.value_heads, device=DEVICE)
    return partial(
        chunk_gated_delta_rule,
        normalize(q, dim=-1),
        normalize(k, dim=-1),
        v,
        g,
        g.exp(),
        initial_state=torch.zeros(seqs, sizes.value_heads, dim, dim, device=DEVICE),
        output_final_state=True,
        cu_seqlens=torch.tensor([0, *workload.lengths], device=DEVICE).cumsum(0),
    )


def sides_of(workload: Workload, sizes: LayerSizes) -> dict[str, Call]:
    sides = {
        "vLLM": layer_call(workload, sizes, False, "triton"),
        "ours": layer_call(workload, sizes, True, "ascend_gdn"),
    }
    if find_spec("flashinfer"):
        sides["vLLM, FlashInfer"] = layer_call(workload, sizes, False, "flashinfer")
        sides["ours, FlashInfer"] = layer_call(workload, sizes, True, "flashinfer")
    if find_spec("fla"):
        sides["fla-core"] = fla_core_call(workload, sizes)
    return sides


def median_of(sides: dict[str, Call], rounds: int) -> dict[str, Counter[str]]:
    """The kernels of each side's median round."""
    names = [list(sides), list(reversed(sides))]
    order = [name for round_ in range(rounds) for name in names[round_ % 2]]
    found: dict[str, list[Counter[str]]] = {name: [] for name in sides}
    for name, kernels in zip(order, device_us([sides[name] for name in order]), strict=True):
        found[name].append(kernels)
    return {
        name: sorted(each, key=lambda kernels: kernels.total())[rounds // 2]
        for name, each in found.items()
    }


def rule_us(kernels: Counter[str]) -> float:
    return sum(time for name, time in kernels.items() if CONVOLUTION not in name)


def main() -> None:
    parser = parser_of(__doc__.splitlines()[0], rounds=3)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4], help="tensor parallel")
    parser.add_argument("--kernels", action="store_true", help="also print each kernel's time")
    arguments = parser.parse_args()
    require_cuda(parser)
    rate, rows, ratios = rates(), [], []
    print(f"{torch.cuda.get_device_name()}: a copy moves {rate[0] / 1e6:.2f} TB/s, a product "
          f"makes {rate[1] / 1e6:.0f} TFLOP/s; microseconds, whole core (rule)")  # fmt: skip
    for ranks in arguments.ranks:
        sizes = LayerSizes(16 // ranks, 32 // ranks)
        for workload in WORKLOADS:
            found = median_of(sides_of(workload, sizes), arguments.rounds)
            least = floors(workload, sizes, rate)
            ratios.append(found["vLLM"].total() / found["ours"].total())
            cells = [f"{name} {each.total():.1f} ({rule_us(each):.1f})"
                     for name, each in found.items()]  # fmt: skip
            cells += [f"{name} {us:.1f}" for name, us in least.items()]
            print(
                f"{workload.name:10} TP {ranks}: {ratios[-1]:.2f}x;", "; ".join(cells), flush=True
            )
            if arguments.kernels:
                for name, each in found.items():
                    for kernel, time in each.most_common():
                        print(f"    {name:16} {time:8.1f}  {kernel[:80]}")
            rows.append({"workload": workload.name, "ranks": ranks, "floor_us": least,
                         "kernels_us": found})  # fmt: skip
    print(f"vLLM to ours: geometric mean {geometric_mean(ratios):.2f}x, median "
          f"{median(ratios):.2f}x, worst {min(ratios):.2f}x")  # fmt: skip
    if arguments.json:
        result = {"device": torch.cuda.get_device_name(), "rates": rate, "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
