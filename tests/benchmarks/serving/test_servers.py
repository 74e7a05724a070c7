# SPDX-License-Identifier: Apache-2.0
"""What the servers are started with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.servers import VLLMServer, with_defaults


def test_two_engines_on_one_device_share_its_memory():
    assert with_defaults([], both_up=True, seed_flags=False) == ["--gpu-memory-utilization", "0.45"]
    assert with_defaults([], both_up=False, seed_flags=False) == []


@pytest.mark.parametrize(
    "given", [["--gpu-memory-utilization", "0.3"], ["--gpu-memory-utilization=0.3"]]
)
def test_the_callers_share_is_left_alone(given):
    assert with_defaults(given, both_up=True, seed_flags=False) == given


def test_the_callers_flags_come_after_the_seeds():
    flags = with_defaults(["--no-async-scheduling"], both_up=False, seed_flags=True)
    assert flags[0] == "--async-scheduling"
    assert flags[-1] == "--no-async-scheduling"
    speculative = json.loads(flags[flags.index("--speculative-config") + 1])
    assert speculative["num_speculative_tokens"] == 3


def test_the_stock_server_is_told_no_worker(tmp_path):
    stock = VLLMServer("stock", "model", None, ["--enforce-eager"], tmp_path / "log")
    ours = VLLMServer("ascend-gdn", "model", "a.Worker", ["--enforce-eager"], tmp_path / "log")
    assert "--worker-cls" not in stock.command
    assert ours.command[ours.command.index("--worker-cls") + 1] == "a.Worker"
    assert stock.command[-1] == ours.command[-1] == "--enforce-eager"
    assert stock.port != ours.port


def test_the_server_keeps_connections_for_longer_than_vllms_client(tmp_path):
    server = VLLMServer("stock", "model", None, [], tmp_path / "log")
    assert int(server.environment["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"]) > 60


def test_starts_as_a_command_whatever_else_is_installed():
    # As the README runs it: installed packages come before examples/.
    benchmarks = Path(__file__).parents[3] / "benchmarks"
    subprocess.run(
        [sys.executable, "-m", "serving", "--help"],
        env=os.environ | {"PYTHONPATH": str(benchmarks)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
