# SPDX-License-Identifier: Apache-2.0
"""What vLLM makes of the machine: platform, worker, Triton, the functions that we build on."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from ascend_gdn.cli.doctor.findings import Finding, advice, ok, refused
from ascend_gdn.cli.doctor.installed import installed, wanted
from ascend_gdn.cli.workers import WORKERS, worker_path


def device_type() -> str:
    """As vLLM has it; empty where it found nothing that it runs on."""
    from vllm.platforms import current_platform

    return current_platform.device_type


def platform() -> Iterator[Finding]:
    from vllm.platforms import current_platform

    device = device_type()
    if device in WORKERS:
        name = device if device == "cpu" else f"{device}, {current_platform.get_device_name()}"
        yield ok(f"{name}: --worker-cls {worker_path(device)}")
    elif device:
        yield refused(
            f"vLLM on {device!r}", f"one of {', '.join(WORKERS)}", "leave --worker-cls out"
        )
    else:
        yield refused(
            f"vLLM {installed('vllm')}, made for CUDA, and no card",
            "a card that nvidia-smi lists",
            "install NVIDIA's driver, or give a container the card (docker run --gpus all); on "
            "CPU: pip uninstall vllm, then pip install 'ascend-gdn[cpu]'",
        )


def triton() -> Iterator[Finding]:
    """The kernels for CUDA are written in it, and vLLM-Ascend's; the CPU needs none."""
    from vllm.triton_utils import HAS_TRITON

    device = device_type()
    if device == "cpu":
        return
    package = wanted("torch", "triton")
    if device == "npu":
        package = wanted("vllm-ascend", "triton-ascend")
        if installed("triton") and installed("triton-ascend"):
            yield advice(
                "triton and triton-ascend, which write the same folder",
                "triton-ascend alone",
                f"pip uninstall triton triton-ascend, then pip install {package}",
            )
    if HAS_TRITON:
        yield ok("vLLM uses it")
    elif find_spec("triton") is None:
        yield refused("no Triton", package, f"pip install {package}")
    else:
        yield refused(
            "a Triton that vLLM does not use: it finds no driver of one device",
            f"{package} and the card's driver",
            f"pip install --force-reinstall --no-deps {package}; nvidia-smi or npu-smi info must "
            "list the card",
        )


def seams() -> Iterator[Finding]:
    """The functions of vLLM and vLLM-Ascend that the worker of this platform builds on."""
    from ascend_gdn.runner.checks.gpu_seams import gpu_seams
    from ascend_gdn.runner.checks.seams import check_seams
    from ascend_gdn.runner.versions import ascend_version, check_version, vllm_version

    check_version(platform=device_type())
    families = {"vLLM": vllm_version().vllm_seams}
    if device_type() == "cuda":
        families["vLLM's kernels for CUDA"] = gpu_seams
    if device_type() == "npu":
        families["vLLM-Ascend"] = ascend_version().ascend_seams
    for name, family in families.items():
        found = family()
        check_seams(found)
        yield ok(f"{len(found)} functions of {name} are the released ones")


def cpu() -> Iterator[Finding]:
    import torch

    if device_type() == "cpu":
        yield from cpu_with(
            avx2=torch.cpu._is_avx2_supported(),
            avx512=torch.cpu._is_avx512_supported(),
            amx=torch.cpu._is_amx_tile_supported(),
        )


def cpu_with(*, avx2: bool, avx512: bool, amx: bool) -> Iterator[Finding]:
    sets = [name for name, has in (("AVX2", avx2), ("AVX-512", avx512), ("AMX", amx)) if has]
    if not avx2:
        yield refused("no AVX2", "AVX2, which vLLM's CPU build needs", "take another machine")
    elif not avx512:
        yield advice(
            "AVX2 without AVX-512, where bfloat16 is several times as slow in a prefill",
            "float32",
            "--dtype float32",
        )
    else:
        yield ok(", ".join(sets))


def plug_ins() -> Iterator[Finding]:
    """Those that replace the layer which we replace; a worker loads them all, too."""
    from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import (
        QwenGatedDeltaNetAttention,
    )
    from vllm.plugins import load_general_plugins

    from ascend_gdn.runner.checks.rivals import refuse_rival

    load_general_plugins()
    refuse_rival(QwenGatedDeltaNetAttention)
    yield ok("none replaces the GDN layer")
