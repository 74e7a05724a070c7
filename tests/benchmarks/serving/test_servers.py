# SPDX-License-Identifier: Apache-2.0
"""What the servers are started with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from serving.arms import Arm
from serving.servers import VLLMServer


def server(arm: Arm, tmp_path: Path) -> VLLMServer:
    return VLLMServer(arm, "model", tmp_path / "log", lambda port, load, seed: {})


def test_a_server_has_its_arms_flags_and_a_port_of_its_own(tmp_path):
    stock = server(Arm("stock", None, ("--enforce-eager",)), tmp_path)
    ours = server(Arm("ours", None, ("--enforce-eager", "--worker-cls", "a.Worker")), tmp_path)
    assert stock.command[-1] == "--enforce-eager"
    assert ours.command[-2:] == ["--worker-cls", "a.Worker"]
    assert stock.port != ours.port


def test_the_server_keeps_connections_for_longer_than_vllms_client(tmp_path):
    made = server(Arm("stock", None), tmp_path)
    assert int(made.environment["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"]) > 60


def test_starts_as_a_command_whatever_else_is_installed():
    # As the README runs it: installed packages come before examples/.
    benchmarks = Path(__file__).parents[3] / "benchmarks"
    subprocess.run(
        [sys.executable, "-m", "serving", "--help"],
        env=os.environ | {"PYTHONPATH": str(benchmarks)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
