# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of the repository, which are not part of the installed package."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"


class NoBenchmarksError(RuntimeError):
    """This is an installation without them."""


def command(benchmark: str, flags: Sequence[str]) -> list[str]:
    """The command line of ``benchmark``, "metadata" or "serving".

    Metadata is compared with the builder of vLLM-Ascend where that is installed, else of vLLM.

    Raises:
        NoBenchmarksError: Installed from a wheel.
    """
    if not FOLDER.is_dir():
        raise NoBenchmarksError(
            f"got no folder {FOLDER}, expected ascend-gdn's repository: clone it, and in it "
            "pip install --no-deps --no-build-isolation -e ."
        )
    if benchmark == "serving":
        return [sys.executable, "-P", "-m", "serving", *flags]
    builder = "bench_ascend_metadata_build" if find_spec("vllm_ascend") else "bench_metadata_build"
    return [sys.executable, "-P", str(FOLDER / f"{builder}.py"), *flags]


def run(benchmark: str, flags: Sequence[str]) -> int:
    """Run it in a process of its own; returns its exit code. Raises as :func:`command`."""
    paths = filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command(benchmark, flags), env=environment, check=False).returncode
