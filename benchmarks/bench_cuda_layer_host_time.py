# SPDX-License-Identifier: Apache-2.0
"""One GDN layer's prefill forward on CUDA: ours against vLLM 0.23.0's, in one run.

    benchmarks/bench_cuda_layer_host_time.py [--rounds 15] [--json FILE]

Each on its own kernels, with sixteen key and thirty-two value heads of 128, as Qwen3-Next has on
one rank. "host" is what the host does until it is free again, "all" the time until the device is
done, both a call over several calls in a row. Below some thousand tokens the host is what counts.
"""

from __future__ import annotations

from time import perf_counter_ns

import torch

import harness_path  # noqa: F401
from both_sides.cuda_layers import forward_context, our_layer, stock_layer
from both_sides.lone_layers import Activations, LayerSizes
from both_sides.workloads import OursOnCuda, Side, Theirs, Workload, prefills
from command_line import parser_of, require_cuda
from host_times import Times, compare_host_times

DEVICE = torch.device("cuda")
SIZES = LayerSizes()
BLOCKS = 1 + 256 * 4  # of the first group
CALLS_PER_ROUND = 20
WORKLOADS = (
    prefills("1 x 128", [128]),
    prefills("1 x 512", [512]),
    Workload("1 x 512, second chunk", [512], [512]),
    prefills("16 x 512", [512] * 16),
    Workload("48 decodes + 16 x 480", [1] * 48 + [480] * 16, [700] * 48 + [0] * 16),
    Workload(
        "MTP: 12 speculative x 4 + 1 x 512", [4] * 12 + [512], [700] * 12 + [0], [3] * 12 + [-1]
    ),
)


class Layer:
    """One side: a layer, and a step's metadata for it."""

    def __init__(self, side: Side, layer: torch.nn.Module) -> None:
        self.metadata = side.step(side.batch.common_metadata())[0]
        self.layer = layer
        self.arguments = Activations.of(SIZES, side.batch.workload.num_tokens).to(DEVICE)

    def microseconds_a_call(self) -> tuple[float, float]:
        """The host's, and all."""
        torch.cuda.synchronize()
        with forward_context(self.metadata):
            started = perf_counter_ns()
            for _ in range(CALLS_PER_ROUND):
                self.layer._forward_core(*self.arguments.arguments())
            host = perf_counter_ns() - started
            torch.cuda.synchronize()
            both = perf_counter_ns() - started
        return host / CALLS_PER_ROUND / 1e3, both / CALLS_PER_ROUND / 1e3


def sides_of(workload: Workload) -> tuple[Times, Times]:
    spec = workload.num_spec
    with torch.inference_mode():
        stock = Layer(Theirs(workload, DEVICE), stock_layer(SIZES, spec, BLOCKS, DEVICE))
        ours = Layer(OursOnCuda(workload, DEVICE), our_layer(SIZES, spec, BLOCKS, DEVICE))
    return stock.microseconds_a_call, ours.microseconds_a_call


def main() -> None:
    parser = parser_of(__doc__.splitlines()[0], rounds=15)
    arguments = parser.parse_args()
    require_cuda(parser)
    compare_host_times(
        f"One GDN layer's forward, microseconds, {torch.cuda.get_device_name()}",
        ("vLLM: host", "all", "ours: host", "all", "ratio: host", "all"),
        ("vllm_host_us", "vllm_all_us", "host_us", "all_us", "host_ratio", "all_ratio"),
        ((workload.name, sides_of(workload)) for workload in WORKLOADS),
        arguments.rounds,
        arguments.json,
    )


if __name__ == "__main__":
    main()
