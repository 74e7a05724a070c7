# SPDX-License-Identifier: Apache-2.0
"""What the figures were taken on."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path


def machine() -> dict[str, object]:
    """Device, CPU, versions. Asks vLLM's platform for the device: call it when no server runs."""
    import torch
    import vllm
    from vllm.platforms import current_platform

    return {
        "device": current_platform.get_device_name(),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        **{name: _version(name) for name in ("vllm-ascend", "triton", "transformers")},
        "ascend_gdn_commit": _commit(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model Name")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # a copy without its history
