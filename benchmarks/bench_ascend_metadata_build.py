# SPDX-License-Identifier: Apache-2.0
"""Host time per step of the GDN metadata: ours against vLLM-Ascend's builder, in one run.

    benchmarks/bench_ascend_metadata_build.py [--rounds 9] [--groups 3 12 48] [--json FILE]

As bench_metadata_build.py, in .venv-ascend, or in .venv-ascend-next for 0.30.0rc2, whose builder
has a second mode, for a fused operator: it makes no table on the device then. Both sides run on CPU
tensors, so neither pays for copies to a device: vLLM-Ascend 0.23.0 makes 8 a build, from pageable
memory, ours one a step.
"""

from __future__ import annotations

import json
from functools import partial
from importlib.metadata import version

import torch

import harness_path  # noqa: F401
from emulated_npu.install import install

install()

from bench_metadata_build import compare, groups_parser  # noqa: E402
from both_sides.ascend_workloads import (  # noqa: E402
    TAKES_ACTUAL_REQUESTS,
    Ours,
    Theirs,
    TheirsHostOnly,
)
from both_sides.workloads import WORKLOADS, Workload  # noqa: E402


def main() -> None:
    arguments = groups_parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)  # the engine builds metadata on one thread
    results: dict[str, dict[str, float]] = {}
    release = f"vLLM-Ascend {version('vllm-ascend')}"
    modes = {release: Theirs}
    if TAKES_ACTUAL_REQUESTS:
        modes[f"{release}, host-only"] = TheirsHostOnly
    for name, theirs in modes.items():
        found: dict[str, dict[str, float]] = {}
        compare("prefill", name, partial(sides, theirs), WORKLOADS, arguments, found)
        results |= found if theirs is Theirs else {f"{key}, host-only": found[key] for key in found}
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def sides(theirs: type[Theirs], workload: Workload) -> tuple[Theirs, Ours]:
    return theirs(workload), Ours(workload)


if __name__ == "__main__":
    main()
