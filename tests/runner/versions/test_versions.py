# SPDX-License-Identifier: Apache-2.0
"""Which versions are let in, and what the others are told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ascend_gdn.runner import versions
from ascend_gdn.runner.checks.errors import IncompatibleStackError
from ascend_gdn.runner.versions import STACKS, check_ascend_version, check_version
from ascend_gdn.runner.versions.protocol import CPUVersion, VllmVersion

NAMED = "expected 0.23.0 or 0.30.0 (vllm-ascend 0.23.0.post1 over 0.23.0, 0.30.0rc2 over 0.30.0)"


def test_the_installed_version_is_a_supported_one():
    assert check_version() in STACKS


@pytest.mark.parametrize("version", ["0.23.0", "0.23.0+cpu", "0.30.0", "0.30.0+cpu"])
def test_a_supported_version_passes(version):
    assert check_version(version).vllm == version.split("+")[0]


@pytest.mark.parametrize(
    "version",
    ["0.22.1", "0.23.1", "0.24.0", "0.24.0rc1+cpu", "0.29.0", "0.30.1", "0.31.0", "0.33.0"],
)
def test_another_version_is_refused_with_what_to_do(version):
    with pytest.raises(IncompatibleStackError) as caught:
        check_version(version)
    for part in (f"got vLLM {version}", NAMED, "pip install 'vllm==0.23.0'"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("vllm", "ascend"),
    [
        ("0.23.0", "0.24.0rc1"),
        ("0.23.0", "0.28.0rc1"),
        ("0.23.0", "0.30.0rc2"),
        ("0.30.0", "0.23.0.post1"),
        ("0.30.0", "0.30.0rc1"),
    ],
)
def test_another_vllm_ascend_is_refused_with_what_to_do(vllm, ascend, mocker):
    mocker.patch.object(versions, "installed_version", return_value=vllm)
    with pytest.raises(IncompatibleStackError) as caught:
        check_ascend_version(ascend)
    right = {"0.23.0": "0.23.0.post1", "0.30.0": "0.30.0rc2"}[vllm]
    for part in (
        f"got vllm-ascend {ascend} over vLLM {vllm}",
        "expected 0.23.0.post1 over vLLM 0.23.0 or 0.30.0rc2 over vLLM 0.30.0",
        f"pip install 'vllm-ascend=={right}'",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("vllm", "ascend"),
    [("0.23.0", "0.23.0"), ("0.23.0+cpu", "0.23.0.post1"), ("0.30.0", "0.30.0rc2")],
)
def test_a_supported_vllm_ascend_passes(vllm, ascend, mocker):
    mocker.patch.object(versions, "installed_version", return_value=vllm)
    assert ascend in check_ascend_version(ascend).vllm_ascend


def test_cuda_is_for_the_first_stack_alone():
    assert check_version("0.23.0", "cuda").vllm == "0.23.0"
    with pytest.raises(IncompatibleStackError) as caught:
        check_version("0.30.0", "cuda")
    for part in (
        "got vLLM 0.30.0 on 'cuda'",
        "V2 model runner",
        "expected 0.23.0 (",
        "pip install 'vllm==0.23.0'",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("chosen", "protocol"),
    [(versions.vllm_version, VllmVersion), (versions.cpu_version, CPUVersion)],
)
def test_the_installed_versions_module_has_what_the_protocol_says(chosen, protocol):
    names = set(protocol.__annotations__) | {name for name in vars(protocol) if name[0] != "_"}
    assert names and all(name in vars(chosen()) for name in names)


@pytest.mark.parametrize("version", ["0.22.1", "0.24.0", "0.31.0"])
@pytest.mark.parametrize("changed", ["vllm", "vllm-ascend"])
def test_another_installed_version_is_named_first(changed: str, version: str, tmp_path: Path):
    """Of the other distribution nothing is there but its version: no import could succeed."""
    versions = {"vllm": "0.23.0", "vllm-ascend": "0.23.0"} | {changed: version}
    for name, each in versions.items():
        package = tmp_path / name.replace("-", "_")
        package.mkdir()
        (package / "__init__.py").write_text(f"__version__ = {each!r}\n")
        info = tmp_path / f"{package.name}-{each}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {each}\n")
    workers = ("CPUWorker", "NPUWorker") if changed == "vllm" else ("NPUWorker",)
    for worker in workers:
        process = subprocess.run(
            [sys.executable, "-c", f"import ascend_gdn.runner; ascend_gdn.runner.{worker}"],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        error = process.stderr.splitlines()[-1]
        named = {"vllm": "vLLM", "vllm-ascend": "vllm-ascend"}[changed]
        assert f"IncompatibleStackError: ascend-gdn: got {named} {version}" in error
        assert "0.30.0rc2" in error and f"pip install '{changed}==0.23.0" in error
