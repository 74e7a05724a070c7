# SPDX-License-Identifier: Apache-2.0
"""``/metrics`` of a real server with two API servers, without development mode."""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from serve import server_environment
from server_guard import Supervised
from server_ports import port_of, reserve_port

from .test_recall import MODEL

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SCRIPT = str(Path(__file__).with_name("two_api_servers.py"))
FLAGS = [
    "--served-model-name", "m",
    "--api-server-count", "2",
    "--worker-cls", "ascend_gdn.runner.CPUWorker",
    "--enforce-eager",
    "--mamba-ssm-cache-dtype", "float32",
    "--dtype", "float32",
    "--max-model-len", "2048",
]  # fmt: skip
REQUESTS = 12


def get(url: str, body: object = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def counts(url: str) -> dict[str, float]:
    found = re.findall(r"^ascend_gdn:(\w+)\{[^l]*\} (\S+)$", get(f"{url}/metrics"), re.MULTILINE)
    return {name: float(value) for name, value in found}


def wait_until_up(url: str, server: Supervised) -> None:
    while server.process.poll() is None:
        with suppress(OSError):
            get(f"{url}/health")
            return
        time.sleep(0.5)
    raise AssertionError("the server ended")


def test_each_counter_moves_whichever_server_is_asked(tmp_path):
    with reserve_port() as reserved:
        port = port_of(reserved)
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-P", SCRIPT, str(MODEL), "--port", str(port), *FLAGS]
        server = Supervised(command, server_environment(), log, patience=60)
        try:
            wait_until_up(url, server)
            before = counts(url)
            body = {"model": "m", "prompt": [5] * 100, "max_tokens": 5, "ignore_eos": True}
            for _ in range(REQUESTS):
                get(f"{url}/v1/completions", body)
            after = counts(url)
        finally:
            server.end()
    said = (tmp_path / "log").read_text()
    assert {"ApiServer_0", "ApiServer_1"} <= set(re.findall(r"ApiServer_\d", said))
    moved = {name: after[name] - before.get(name, 0) for name in after}
    print(moved)
    assert before.get("steps_total", 0) == 0  # nothing of the start
    for name, expected in {
        "prefill_steps_total": REQUESTS,
        "plans_built_total": REQUESTS,
        "plans_reused_total": 2 * REQUESTS,
        "metadata_host_seconds_count": REQUESTS,
        "bytes_copied_total": 0,  # on CPU
    }.items():
        assert moved[name] == expected, name
    assert moved["steps_total"] >= 5 * REQUESTS
    assert moved["metadata_host_seconds_sum"] > 0
    assert re.search(rf"ascend-gdn: ends after steps \d+, prefill_steps {REQUESTS},", said)
