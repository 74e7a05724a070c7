# SPDX-License-Identifier: Apache-2.0
"""What importing the package does, and does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ascend_gdn.runner


def python(code: str) -> str:
    """What ``code`` prints in a new process, run away from the repository's root."""
    return subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(sys.executable).parent,
    ).stdout.strip()


def test_importing_the_runner_imports_no_platform():
    code = (
        "import sys, ascend_gdn.runner; "
        "print([m for m in ('vllm', 'vllm_ascend', 'torch') if m in sys.modules])"
    )
    assert python(code) == "[]"


def test_an_unknown_worker_is_named_with_those_that_exist():
    with pytest.raises(AttributeError, match="no worker 'TPUWorker'; it has CPUWorker"):
        _ = ascend_gdn.runner.TPUWorker


def test_a_missing_platform_package_says_what_to_install():
    code = """
import sys
sys.modules['vllm'] = None  # as if it were not installed
import ascend_gdn.runner
try:
    ascend_gdn.runner.CPUWorker
except ModuleNotFoundError as error:
    print(error)
"""
    assert "pip install 'ascend-gdn[cpu]'" in python(code)


def test_a_missing_vllm_ascend_says_what_to_install():
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ascend-gdn\[npu\]'"):
        _ = ascend_gdn.runner.NPUWorker


def test_the_folders_are_not_importable_by_their_bare_names():
    # transformers probes for flash-linear-attention by the name `fla`.
    names = ("fla", "runner", "attention")
    code = f"import importlib.util as u; print([u.find_spec(m) for m in {names}])"
    assert python(code) == "[None, None, None]"
