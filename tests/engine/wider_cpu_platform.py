# SPDX-License-Identifier: Apache-2.0
"""vLLM's CPU platform with what 0.23.0 leaves out of it, for tests: Ray, and MoE in data parallel.

It has no Ray resource, so that ``--distributed-executor-backend ray`` stops with "current platform
cpu does not support ray" (v1/executor/ray_utils.py); and its communicator has no gather of unequal
sizes, which MoE layers need as soon as data-parallel ranks step together.

The way in is vLLM's own: a platform plug-in, an entry point that vLLM finds in every process whose
``PYTHONPATH`` has the folder that :func:`plugged_in` writes.
"""

from __future__ import annotations

from pathlib import Path

RESOURCE = "NPU"  # vLLM-Ascend's: Ray knows it, and its ids, without any device


def plugged_in(folder: Path) -> dict[str, str]:
    """Write the entry point under ``folder``; returns the environment that makes it count."""
    from .cpu_isa import with_python_path  # not above: as a plug-in, this file is in no package

    info = folder / "plugin" / "wider_cpu_platform-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wider-cpu-platform\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[vllm.platform_plugins]\nwider_cpu = wider_cpu_platform:activate\n"
    )
    return with_python_path(info.parent, Path(__file__).parent)


def activate() -> str:
    """What vLLM calls: where the platform's class is."""
    return "wider_cpu_platform.WiderCpuPlatform"


def __getattr__(name: str) -> type:
    if name != "WiderCpuPlatform":
        raise AttributeError(name)
    # Imported when asked for: the test itself has no use for vLLM.
    from vllm.platforms.cpu import CpuPlatform

    class WiderCpuPlatform(CpuPlatform):
        ray_device_key = RESOURCE
        device_control_env_var = "ASCEND_RT_VISIBLE_DEVICES"

        @classmethod
        def get_device_communicator_cls(cls) -> str:
            return "wider_cpu_communicator.WiderCpuCommunicator"

    return WiderCpuPlatform
