# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn bench``: it runs the benchmarks of the repository, their own options and all."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ascend_gdn.cli import bench
from ascend_gdn.cli.__main__ import app


def test_a_benchmark_gets_its_options_and_its_code_is_ours(tmp_path):
    run = [sys.executable, "-P", "-m", "ascend_gdn.cli", "bench"]
    rows = tmp_path / "rows.json"
    done = subprocess.run(
        [*run, "metadata", "--rounds", "1", "--groups", "3", "--json", str(rows)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "16 x 512" in done.stdout
    assert rows.exists()
    done = subprocess.run(
        [*run, "serving", "--out", str(tmp_path), "--rounds", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--rounds: give at least 2" in done.stderr


@pytest.mark.parametrize(
    ("installed", "builder"),
    [(None, "bench_metadata_build.py"), (object(), "bench_ascend_metadata_build.py")],
)
def test_metadata_is_compared_with_the_builder_that_is_installed(installed, builder, mocker):
    mocker.patch.object(bench, "find_spec", return_value=installed)
    program = bench.command("metadata", ["--rounds", "3"])
    assert program[2:] == [str(bench.FOLDER / builder), "--rounds", "3"]
    assert (bench.FOLDER / builder).exists()


def test_a_wheel_has_none(mocker, tmp_path):
    mocker.patch.object(bench, "FOLDER", tmp_path / "benchmarks")
    result = CliRunner().invoke(app, ["bench", "serving", "--out", "results"])
    assert result.exit_code == 1
    assert "clone it" in result.stderr
