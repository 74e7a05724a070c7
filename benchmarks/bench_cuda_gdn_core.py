# SPDX-License-Identifier: Apache-2.0
"""The device's time for one GDN layer's prefill on CUDA: our kernels against vLLM 0.23.0's.

    benchmarks/bench_cuda_gdn_core.py [--rounds 3] [--ranks 1 4] [--loads 16x512 ...]
                                      [--json FILE] [--kernels]

The sum over all kernels between projection and norm, by torch's profiler, at Qwen3-Next's heads on
one rank and on a rank of four; "the rule alone" is what of it is neither convolution nor gates: the
chunked rule, and the states' way from and to their blocks. Where FlashInfer is installed, with it
both in vLLM's layer and in ours; where fla-core is, its chunked rule from q, k, v, g and beta,
which takes and returns the states without their blocks. The sides take turns.

Beside it what the card needs at least: "bytes", to read the core's inputs and write its outputs and
states once each, at the rate of a large copy; "flops", for the rule's products by chunks of 64, at
the rate of a large product of bfloat16.

Triton compiles and tunes vLLM's and fla-core's kernels in the first call at a number of heads, for
minutes. To compile beforehand: a process for each of --ranks with --loads 1x512 64x128 --rounds 1,
FLA_CACHE_RESULTS=0 and no TRITON_CACHE_AUTOTUNING, lest what is tuned beside another is kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from statistics import geometric_mean

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
RULE_ALONE = "fla-core"
"""The side that is no layer."""
PROMPTS = ((1, 512), (1, 2048), (1, 8192), (4, 2048), (16, 512), (16, 2048), (64, 128))
LOADS = {f"{n}x{tokens}": prefills(f"{n}x{tokens}", [tokens] * n) for n, tokens in PROMPTS}

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
    tokens, dim, values = workload.num_tokens, sizes.head_dim, sizes.value_heads
    states = len(workload.lengths) * values * dim * dim
    moved = tokens * 2 * (sizes.conv_dim + values * dim) + 4 * states
    # A token's products with its chunk: k and q with k, inverse and weights with k and v, and v.
    products = tokens * CHUNK * dim * (2 * sizes.key_heads + 3 * values)
    products += 3 * tokens * dim * dim * values  # with the state
    return {"bytes": moved / rate[0], "flops": 2 * products / rate[1]}


def layer_call(
    workload: Workload, sizes: LayerSizes, inputs: Activations, ours: bool, backend: str
) -> Call:
    """A layer's forward, over metadata that stays."""
    side = (OursOnCuda if ours else Theirs)(workload, DEVICE, prefill_backend=backend)
    layer = (our_layer if ours else stock_layer)(
        sizes=sizes, num_spec=0, blocks=BLOCKS, device=DEVICE, prefill_backend=backend
    )
    metadata = side.step(side.batch.common_metadata())[0]

    def call(_: object = side) -> None:  # whose buffers the metadata is in
        with forward_context(metadata):
            layer._forward_core(*inputs.arguments())

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
    inputs = Activations.of(sizes, workload.num_tokens).to(DEVICE)
    layers = {"vLLM": (False, "triton"), "ours": (True, "ascend_gdn")}
    if find_spec("flashinfer"):
        layers |= {
            "vLLM+FlashInfer": (False, "flashinfer"),
            "ours+FlashInfer": (True, "flashinfer"),
        }
    sides = {name: layer_call(workload, sizes, inputs, *each) for name, each in layers.items()}
    if find_spec("fla"):
        sides[RULE_ALONE] = fla_core_call(workload, sizes)
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


def core_us(kernels: Mapping[str, Counter[str]]) -> dict[str, float]:
    """Of each layer."""
    return {name: each.total() for name, each in kernels.items() if name != RULE_ALONE}


def rule_us(kernels: Mapping[str, Counter[str]]) -> dict[str, float]:
    return {
        name: sum(time for kernel, time in each.items() if CONVOLUTION not in kernel)
        for name, each in kernels.items()
    }


def print_row(name: str, times: Mapping[str, float], least: Mapping[str, float]) -> None:
    """Microseconds, and how many times ours."""
    cells = [f"{name:9}"]
    cells += [f"{time:.1f} ({time / times['ours']:.2f}x)" for time in times.values()]
    cells += [f"{time:.1f}" for time in least.values()]
    print(f"| {' | '.join(cells)} |", flush=True)


def print_head(title: str, columns: list[str]) -> None:
    print(f"\n| {title} | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")


def print_summary(part: str, rows: list[dict[str, float]]) -> None:
    for name in rows[0]:
        if name != "ours":
            times = [row[name] / row["ours"] for row in rows]
            print(f"{part}, {name}: {geometric_mean(times):.2f} times ours in the geometric mean, "
                  f"{min(times):.2f} to {max(times):.2f}")  # fmt: skip


def print_kernels(load: str, kernels: Mapping[str, Counter[str]]) -> None:
    for side, each in kernels.items():
        for kernel, time in each.most_common():
            print(f"{load:9} {side:16} {time:8.1f}  {kernel[:80]}")


def main() -> None:
    parser = parser_of(__doc__.splitlines()[0], rounds=3)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4], help="tensor parallel")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--kernels", action="store_true", help="also print each kernel's time")
    arguments = parser.parse_args()
    require_cuda(parser)
    rate = rates()
    result = {"device": torch.cuda.get_device_name(), "rates": rate, "rows": []}
    print(f"{result['device']}: a copy moves {rate[0] / 1e6:.2f} TB/s, a product makes "
          f"{rate[1] / 1e6:.0f} TFLOP/s; microseconds, and how many times ours")  # fmt: skip
    for ranks in arguments.ranks:
        sizes, rows = LayerSizes(16 // ranks, 32 // ranks), []
        for load in arguments.loads:
            kernels = median_of(sides_of(LOADS[load], sizes), arguments.rounds)
            least = floors(LOADS[load], sizes, rate)
            if not rows:
                print_head(f"TP {ranks}: core", [*core_us(kernels), *least])
            print_row(load, core_us(kernels), least)
            rows.append({"load": load, "ranks": ranks, "floor_us": least, "kernels_us": kernels,
                         "core_us": core_us(kernels), "rule_us": rule_us(kernels)})  # fmt: skip
            result["rows"].append(rows[-1])
            if arguments.json:  # at each row, in case the time is up before the last
                arguments.json.write_text(json.dumps(result, indent=2) + "\n")
        print_summary("core", [row["core_us"] for row in rows])
        print_head(f"TP {ranks}: the rule alone", [*rows[0]["rule_us"], *rows[0]["floor_us"]])
        for row in rows:
            print_row(row["load"], row["rule_us"], row["floor_us"])
        print_summary("rule", [row["rule_us"] for row in rows])
        if arguments.kernels:
            for row in rows:
                print_kernels(row["load"], row["kernels_us"])


if __name__ == "__main__":
    main()
