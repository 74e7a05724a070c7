# SPDX-License-Identifier: Apache-2.0
"""Host time of one GDN layer's forward: ours against vLLM-Ascend's, in one run.

    benchmarks/bench_ascend_layer_host_time.py [--rounds 15] [--json FILE]

In .venv-ascend, or .venv-ascend-next for 0.30.0rc2. The operators below both are replaced by ones
that only allocate their outputs, and the tensors are small, so that what PyTorch's own operators do
with them takes next to no time: what is measured is Python and dispatch. Beside it, how many
operators a layer dispatches.
"""

from __future__ import annotations

import json
import statistics
from importlib.metadata import version
from time import perf_counter_ns

import torch
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

import harness_path  # noqa: F401
from both_sides import allocating_operators
from emulated_npu.install import install

install(instead=allocating_operators.BY_NAME)

from both_sides.ascend_layers import forward_context, our_layer, stock_layer  # noqa: E402
from both_sides.ascend_workloads import Ours, Theirs  # noqa: E402
from both_sides.lone_layers import Activations, LayerSizes  # noqa: E402
from both_sides.workloads import Workload  # noqa: E402
from command_line import parser_of  # noqa: E402

SIZES = LayerSizes(key_heads=1, value_heads=2, head_dim=16)
BLOCKS = 1 + 256 * 3 * 4
CALLS_PER_ROUND = 20
WORKLOADS = (
    Workload("1 x 64", [64], [0]),
    Workload("1 x 256", [256], [0]),
    Workload("1 x 64 after 512", [64], [512]),
    Workload("16 x 8", [8] * 16, [0] * 16),
    Workload("16 x 8 after 64", [8] * 16, [64] * 16),
    Workload("8 decode + 2 x 64", [1] * 8 + [64] * 2, [700] * 8 + [0] * 2),
    Workload("MTP: 4 spec x 4 + 1 x 64", [4] * 4 + [64], [700] * 4 + [0], [3] * 4 + [-1]),
)


class CountOperators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += 1
        return operator(*args, **(kwargs or {}))


class Layer:
    """One side: a layer, and a step's metadata for it."""

    def __init__(self, side, layer, workload: Workload) -> None:
        self.metadata = side.step(side.batch.common_metadata())[0]
        self.layer = layer
        self.arguments = Activations.of(SIZES, workload.num_tokens).arguments()

    def microseconds_a_call(self) -> float:
        with forward_context(self.metadata):
            started = perf_counter_ns()
            for _ in range(CALLS_PER_ROUND):
                self.layer._forward_core(*self.arguments)
            return (perf_counter_ns() - started) / CALLS_PER_ROUND / 1e3

    def operators(self) -> int:
        with forward_context(self.metadata), CountOperators() as counter:
            self.layer._forward_core(*self.arguments)
        return counter.count


def main() -> None:
    arguments = parser_of(__doc__.splitlines()[0], rounds=15).parse_args()
    torch.set_num_threads(1)
    table = Table(title="One GDN layer's forward on Ascend, host microseconds, and operators")
    for column in ("workload", f"vLLM-Ascend {version('vllm-ascend')}", "ascend-gdn", "ratio"):
        table.add_column(column, justify="left" if column == "workload" else "right")
    results = {}
    for workload in WORKLOADS:
        with torch.inference_mode():
            sides = (
                Layer(Theirs(workload), stock_layer(SIZES, workload.num_spec, BLOCKS), workload),
                Layer(Ours(workload), our_layer(SIZES, workload.num_spec, BLOCKS), workload),
            )
            operators = [side.operators() for side in sides]
            samples = [
                [side.microseconds_a_call() for side in sides] for _ in range(arguments.rounds)
            ]
        theirs, ours = (statistics.median(column) for column in zip(*samples, strict=True))
        ratio = statistics.median(first / second for first, second in samples)
        results[workload.name] = {
            "vllm_ascend_us": theirs,
            "ascend_gdn_us": ours,
            "ratio": ratio,
            "vllm_ascend_operators": operators[0],
            "ascend_gdn_operators": operators[1],
        }
        table.add_row(
            workload.name,
            f"{theirs:.0f} us, {operators[0]} operators",
            f"{ours:.0f} us, {operators[1]} operators",
            f"{ratio:.2f}x",
        )
    Console(width=110).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
