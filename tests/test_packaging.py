# SPDX-License-Identifier: Apache-2.0
"""The wheel: all that runs and nothing else, and it is what runs where it is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tiny_checkpoint import TinySizes, write_checkpoint

from .engine.job import Job, run

ROOT = Path(__file__).parents[1]
PACKAGES = ("attention", "cli", "fla", "runner")
BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """Built from what git tracks, in a folder of its own."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "-z", *PACKAGES, "*.toml", "*.md", "LICENSE"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for file in filter(None, files):
        target = source / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / file).read_bytes())
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)],
        cwd=source, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return out / built.stdout.split()[-1]


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Path:
    """What an installer makes of it, first on Python's path before this repository's own."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(installed: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed), "VLLM_LOGGING_LEVEL": "ERROR"}
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        env=environment, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def test_it_has_the_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        f"ascend_gdn/{path.relative_to(ROOT)}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert found == expected


def test_it_runs_from_where_it_is_installed(installed):
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    said = python(
        installed, "-c",
        "import importlib.metadata as m, ascend_gdn.runner as r; "
        "print(m.version('ascend-gdn'), r.__file__)",
    )  # fmt: skip
    assert said.split() == [version, str(installed / "ascend_gdn/runner/__init__.py")]
    assert "explain" in python(installed, "-m", "ascend_gdn.cli", "--help")


@pytest.mark.engine
@pytest.mark.slow
def test_an_engine_runs_on_it(installed, tmp_path):
    model = write_checkpoint(tmp_path / "model", TinySizes(dtype="float32", layers=4))
    job = Job(str(model), [[5] * 70], max_tokens=4, env={"PYTHONPATH": str(installed)})
    assert run(job, tmp_path).stats["plans_built"] == 1
