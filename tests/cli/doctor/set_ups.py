# SPDX-License-Identifier: Apache-2.0
"""Set-ups as they lie on a disk: packages as an installer leaves them, models without weights.

What a set-up adds goes on Python's path before all that is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tiny_checkpoint import TinySizes, model_config

ROOT = Path(__file__).parents[3]
By = dict[str, list[dict[str, str]]]

CARD = """
from vllm.platforms.cuda import NonNvmlCudaPlatform
from vllm.platforms.interface import DeviceCapability

class Card(NonNvmlCudaPlatform):
    @classmethod
    def get_device_capability(cls, device_id=0):
        return DeviceCapability{capability}

    @classmethod
    def get_device_name(cls, device_id=0):
        return "a card"

    @classmethod
    def get_device_total_memory(cls, device_id=0):
        return 80 * 2**30
"""
COMPILER = """
import triton.backends.nvidia.compiler as nvidia

class Compiler(nvidia.CUDABackend):
    pass
"""
COMPILED = """
from torch.library import Library

fragment = Library("_C", "FRAGMENT")
for name in ("fp8", "block_fp8"):
    fragment.define(f"cutlass_scaled_mm_supports_{name}(int capability) -> bool")
    fragment.impl(
        f"cutlass_scaled_mm_supports_{name}", lambda _: False, "CompositeExplicitAutograd"
    )
"""
DRIVER = """
import triton.backends.driver as base
from triton.backends.compiler import GPUTarget

class Driver(base.DriverBase):
    @classmethod
    def is_active(cls):
        return True

    def get_current_target(self):
        return GPUTarget("cpu", 0, 32)  # not cuda, which torch would be asked about

    def get_current_device(self):
        return 0

    def get_active_torch_device(self):
        return None

    def get_benchmarker(self):
        return None

    def map_python_to_cpp_type(self, ty):
        return ty
"""


def users_environment() -> dict[str, str]:
    """Without what the tests are run with: it changes what vLLM makes of a configuration."""
    ours = ("VLLM_", "PYTHONPATH", "TORCH_", "CUDA_VISIBLE_DEVICES")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def doctor(
    *arguments: str, path: Path | None = None, alone: bool = False, **variables: str
) -> tuple[int, By]:
    """Its exit code and, by check, what it found, in a process of its own.

    ``path`` goes before all that is installed, or stands for it if ``alone``.
    """
    environment = users_environment() | ({"PYTHONPATH": str(path)} if path else {})
    process = subprocess.run(
        [sys.executable, "-P", *["-S"] * alone, "-m", "ascend_gdn.cli", "doctor", "--json",
         *arguments],
        env=environment | variables, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert "Traceback" not in process.stderr, process.stderr
    return process.returncode, by_check(process.stdout, process.returncode)


def by_check(said: str, code: int) -> By:
    """What a report has, by check; its form is the documented one."""
    report = json.loads(said)
    assert list(report) == ["schema", "starts", "findings", "not_checked"]
    assert (report["schema"], report["starts"]) == (1, code == 0)
    by: By = {name: [] for name in report["not_checked"]}
    for finding in report["findings"]:
        assert list(finding) == ["check", "level", "found", "expected", "do"]
        by.setdefault(finding["check"], []).append(finding)
    return by


def refusals(by: By) -> list[dict[str, str]]:
    return [each for found in by.values() for each in found if each["level"] == "refused"]


def distribution(folder: Path, name: str, version: str, entry_points: str = "") -> None:
    """What importlib.metadata reads of it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)


def module(folder: Path, name: str, text: str = "") -> None:
    """``name`` may have dots; packages on the way are made."""
    *parents, last = name.split(".")
    place = folder
    for parent in parents:
        place /= parent
        place.mkdir(parents=True, exist_ok=True)
        (place / "__init__.py").touch()
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{last}.py").write_text(text)


def vllm_for_cuda(folder: Path) -> None:
    """vLLM 0.23.0 as its wheel for CUDA has it, but for what is compiled: that is empty."""
    (spec,) = find_spec("vllm").submodule_search_locations
    shutil.copytree(
        spec, folder / "vllm", copy_function=os.symlink, ignore=shutil.ignore_patterns("__pyc*")
    )
    (folder / "vllm/_C_stable_libtorch.py").write_text(COMPILED)
    (folder / "vllm/vllm_flash_attn/_vllm_fa2_C.py").touch()
    distribution(folder, "vllm", "0.23.0")


def card(folder: Path, capability: tuple[int, int] = (9, 0)) -> None:
    """A platform plug-in that has vLLM find a card."""
    module(folder, "a_card.platform", CARD.format(capability=capability))
    module(folder, "a_card.plug_in", "def register():\n    return 'a_card.platform.Card'\n")
    entry_points = "[vllm.platform_plugins]\na_card = a_card.plug_in:register\n"
    distribution(folder, "a-card", "1.0", entry_points)


def driver(folder: Path) -> None:
    """A backend of Triton's that takes the card for real."""
    module(folder, "a_backend.compiler", COMPILER)
    module(folder, "a_backend.driver", DRIVER)
    distribution(folder, "a-backend", "1.0", "[triton.backends]\na_backend = a_backend\n")


def model(folder: Path, **changes: object) -> str:
    """A Qwen3-Next without weights: its config.json alone."""
    sizes = TinySizes(layers=4, head_dim=128, key_heads=2, value_heads=4, dtype="bfloat16")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model_config(sizes) | changes))
    return str(folder)


def site_packages(folder: Path, *left_out: str) -> None:
    """All that is installed, but for what starts with one of these; for ``alone``."""
    folder.mkdir(parents=True)
    for entry in Path(find_spec("typer").origin).parents[1].iterdir():
        if not entry.name.startswith((*left_out, "__editable__")):
            (folder / entry.name).symlink_to(entry)
    ours = folder / "ascend_gdn"
    ours.mkdir(exist_ok=True)
    for name in ("cli", "runner", "attention", "fla"):
        (ours / name).symlink_to(ROOT / name)
