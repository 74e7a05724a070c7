# SPDX-License-Identifier: Apache-2.0
"""Whatever clients ask of one server, and whenever they leave: it stays up, and is right."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
import urllib.request
from pathlib import Path

import pytest

from demo_server import Server
from serve import server_command, server_environment
from server_ports import port_of, reserve_port

from .server_chaos import Clients
from .server_requests import CERTAIN
from .test_chaos import families
from .test_recall import MODEL, MTP, PREFIX_CACHING

pytestmark = pytest.mark.engine

OPTIONS = [
    "--served-model-name", "recall_model",
    "--dtype", "float32",
    "--max-model-len", "2048",
    "--max-num-seqs", "8",
    "--max-num-batched-tokens", "512",
    # As in test_chaos.py: so small a cache that requests are preempted.
    "--long-prefill-token-threshold", "128",
    "--num-gpu-blocks-override", "72",
    "--no-scheduler-reserve-full-isl",
    "--scheduling-policy", "priority",
    "--enable-prefix-caching",
    "--mamba-cache-mode", PREFIX_CACHING["mamba_cache_mode"],
    "--scheduler-cls", PREFIX_CACHING["scheduler_cls"],
    "--speculative-config", json.dumps(MTP["speculative_config"]),
]  # fmt: skip


def metrics(server: Server) -> dict[str, float]:
    """vLLM's metrics, summed over their labels."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    values: dict[str, float] = {}
    for name, value in re.findall(r"^(vllm:\w+)(?:\{.*\})? (\S+)$", text, re.MULTILINE):
        values[name] = values.get(name, 0) + float(value)
    return values


def wait_until_idle(server: Server, seconds: float = 60) -> dict[str, float]:
    """Clients that left are noticed late."""
    deadline = time.monotonic() + seconds
    while True:
        found = metrics(server)
        busy = found["vllm:num_requests_running"] + found["vllm:num_requests_waiting"]
        if not busy or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


@pytest.mark.parametrize(
    "requests", [80, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])]
)
def test_the_server_outlives_its_clients(requests: int, tmp_path: Path):
    reserved = reserve_port()
    environment = server_environment() | {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
        "VLLM_SERVER_DEV_MODE": "1",  # for /collective_rpc
    }
    command = server_command(MODEL, port_of(reserved), extra=OPTIONS)
    with Server(command, environment, reserved, tmp_path / "log.txt") as server:
        server.wait_until_healthy(timeout=600)
        before = server.call_workers("gdn_stats")[0]
        known = families(24, seed=0)
        clients = Clients(server.url, "recall_model", known, requests, seed=requests)
        tally = asyncio.run(clients.run())
        server.check_alive()
        after = wait_until_idle(server)
        calm = Clients(server.url, "recall_model", known, 0, 0)
        asyncio.run(calm.run())
        stats = server.call_workers("gdn_stats")[0]
    happened = {
        name: after[f"vllm:{name}_total"]
        for name in ("num_preemptions", "prefix_cache_hits", "spec_decode_num_accepted_tokens")
    }
    print(f"{tally.sent} sent, {tally.checked} checked, {len(tally.wrong)} wrong")
    print(dict(sorted(tally.statuses.items())), happened, stats)
    print(*tally.errors, *tally.wrong, sep="\n")
    assert tally.wrong == []
    assert after["vllm:num_requests_running"] == after["vllm:num_requests_waiting"] == 0
    assert after["vllm:kv_cache_usage_perc"] == 0
    assert stats["pool_bytes"] == before["pool_bytes"]
    assert calm.first == clients.first  # what each was told at first, it is told at last
    assert len(calm.first) > 0.9 * len(CERTAIN)
    assert tally.checked > requests / 4
    # Whether any was preempted depends on how fast clients are: test_chaos.py sees to it.
    assert happened["prefix_cache_hits"] > 0 < happened["spec_decode_num_accepted_tokens"], happened
