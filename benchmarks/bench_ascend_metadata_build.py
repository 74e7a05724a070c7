# SPDX-License-Identifier: Apache-2.0
"""Host time per step of the GDN metadata: ours against vLLM-Ascend 0.23.0's builder, in one run.

    benchmarks/bench_ascend_metadata_build.py [--rounds 9] [--json FILE]

As bench_metadata_build.py, in .venv-ascend. Both sides run on CPU tensors, so neither pays for
copies to a device: vLLM-Ascend makes 8 a build, from pageable memory, ours one a step.
"""

from __future__ import annotations

import json

import torch

import harness_path  # noqa: F401
from emulated_npu.install import install

install()

from bench_metadata_build import compare  # noqa: E402
from both_sides.ascend_workloads import Ours, Theirs  # noqa: E402
from both_sides.workloads import GROUPS, WORKLOADS  # noqa: E402
from command_line import parser_of  # noqa: E402


def main() -> None:
    arguments = parser_of(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)  # the engine builds metadata on one thread
    results: dict[str, dict[str, float]] = {}
    compare(
        f"GDN metadata, host microseconds a prefill step, {GROUPS} groups",
        "vLLM-Ascend 0.23.0",
        {each.name: (Theirs(each), Ours(each)) for each in WORKLOADS},
        arguments.rounds,
        results,
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
