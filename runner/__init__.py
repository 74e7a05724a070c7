# SPDX-License-Identifier: Apache-2.0
"""Workers for ``--worker-cls``, resolved when asked for: importing this imports no platform."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ascend_gdn.runner.versions import check_ascend_version, check_version

if TYPE_CHECKING:
    from ascend_gdn.runner.cpu import CPUWorker
    from ascend_gdn.runner.gpu import GPUWorker
    from ascend_gdn.runner.npu import NPUWorker

__all__ = ["CPUWorker", "GPUWorker", "NPUWorker"]

_PLATFORMS = {
    "CPUWorker": ("ascend_gdn.runner.cpu", "vllm", "cpu"),
    "GPUWorker": ("ascend_gdn.runner.gpu", "vllm", "cuda"),
    "NPUWorker": ("ascend_gdn.runner.npu", "vllm_ascend", "npu"),
}
"""Worker: (module, package that it builds on, extra that installs it)."""


def __getattr__(name: str) -> type:
    if name not in _PLATFORMS:
        raise AttributeError(
            f"module 'ascend_gdn.runner' has no worker {name!r}; it has {', '.join(_PLATFORMS)}"
        )
    module, package, extra = _PLATFORMS[name]
    try:
        check_version(platform=extra)  # before the module imports what another version may lack
        if package == "vllm_ascend":
            check_ascend_version()
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.replace("-", "_") != package:
            raise
        raise ModuleNotFoundError(
            f"ascend_gdn.runner.{name}: got no package {package!r}, expected it installed. "
            f"Install it with: pip install 'ascend-gdn[{extra}]'",
            name=package,
        ) from error
