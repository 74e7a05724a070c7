# SPDX-License-Identifier: Apache-2.0
"""Host time per step of the GDN metadata: ours against vLLM-Ascend 0.23.0's builder, in one run.

    benchmarks/bench_ascend_metadata_build.py [--rounds 9] [--groups 3 12 48] [--json FILE]

As bench_metadata_build.py, in .venv-ascend. Both sides run on CPU tensors, so neither pays for
copies to a device: vLLM-Ascend makes 8 a build, from pageable memory, ours one a step.
"""

from __future__ import annotations

import json

import torch

import harness_path  # noqa: F401
from emulated_npu.install import install

install()

from bench_metadata_build import compare, groups_parser  # noqa: E402
from both_sides.ascend_workloads import Ours, Theirs  # noqa: E402
from both_sides.workloads import WORKLOADS  # noqa: E402


def main() -> None:
    arguments = groups_parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)  # the engine builds metadata on one thread
    results: dict[str, dict[str, float]] = {}
    compare(
        "prefill",
        "vLLM-Ascend 0.23.0",
        lambda workload: (Theirs(workload), Ours(workload)),
        WORKLOADS,
        arguments,
        results,
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
