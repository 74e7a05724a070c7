# SPDX-License-Identifier: Apache-2.0
"""The start-up check of versions and signatures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ascend_gdn.runner.checks.seams import (
    IncompatibleStackError,
    check_seams,
    check_version,
    vllm_seams,
)


def test_the_installed_stack_passes():
    check_version()
    check_seams(vllm_seams())


@pytest.mark.parametrize("version", ["0.23.0", "0.23.0+cpu"])
def test_the_pinned_version_passes(version):
    check_version(version)


@pytest.mark.parametrize("version", ["0.22.0", "0.22.1", "0.23.1", "0.24.0", "0.24.0rc1+cpu"])
def test_another_version_is_refused_with_what_to_do(version):
    with pytest.raises(IncompatibleStackError) as caught:
        check_version(version)
    for part in (f"got vLLM {version}", "expected 0.23.0", "pip install 'vllm==0.23.0'"):
        assert part in str(caught.value)


def test_a_changed_signature_is_named():
    def build(self, batch, extra):
        """Stand in for a function of another vLLM."""

    check_seams({build: "self batch"})  # more parameters do no harm
    with pytest.raises(IncompatibleStackError) as caught:
        check_seams({build: "self common_prefix_len"})
    assert "build: got parameters ('self', 'batch', 'extra')" in str(caught.value)
    assert "('self', 'common_prefix_len')" in str(caught.value)


@pytest.mark.parametrize("version", ["0.22.1", "0.24.0"])
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
        assert f"IncompatibleStackError: ascend-gdn: got {named} {version}, expected" in error
        assert f"pip install '{changed}==0.23.0" in error
