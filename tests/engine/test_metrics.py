# SPDX-License-Identifier: Apache-2.0
"""``/metrics`` of a real server with one or two API servers, without development mode."""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from ascend_gdn.runner.metrics import VARIABLE
from ascend_gdn.runner.versions import check_version
from serve import server_environment
from server_guard import Supervised
from server_ports import port_of, reserve_port

from .test_recall import MODEL

pytestmark = pytest.mark.engine

SCRIPT = str(Path(__file__).with_name("two_api_servers.py"))
FLAGS = [
    "--served-model-name", "m",
    "--worker-cls", "ascend_gdn.runner.CPUWorker",
    "--enforce-eager",
    "--mamba-ssm-cache-dtype", "float32",
    "--dtype", "float32",
    "--max-model-len", "2048",
    "--shutdown-timeout", "30",  # with 0 several API servers kill the engine, which says no more
]  # fmt: skip
REQUESTS = 12


def get(url: str, body: object = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Connection": "close"}
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def counts(url: str) -> dict[str, float]:
    series = r'^ascend_gdn:(\w+)\{engine="0",worker="0"\} (\S+)$'
    found = re.findall(series, get(f"{url}/metrics"), re.MULTILINE)
    return {name.removesuffix("_total"): float(value) for name, value in found}


def wait_until_up(url: str, server: Supervised) -> None:
    while server.process.poll() is None:
        with suppress(OSError):
            get(f"{url}/health")
            return
        time.sleep(0.5)
    raise AssertionError("the server ended")


@pytest.mark.parametrize("api_servers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_each_counter_moves_whichever_server_is_asked(api_servers, tmp_path):
    environment = server_environment()
    if api_servers == 1:  # several set it themselves
        folder = tmp_path / "metrics"
        folder.mkdir()
        environment[VARIABLE] = str(folder)
    with reserve_port() as reserved:
        port = port_of(reserved)
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-P", SCRIPT, str(MODEL), "--port", str(port), *FLAGS]
        command += ["--api-server-count", str(api_servers)]
        server = Supervised(command, environment, log, patience=60)
        try:
            wait_until_up(url, server)
            before = counts(url)
            body = {"model": "m", "prompt": [5] * 100, "max_tokens": 5, "ignore_eos": True}
            for _ in range(REQUESTS):
                get(f"{url}/v1/completions", body)
            time.sleep(2)  # a worker publishes every second, also when it has nothing to do
            scrapes = [counts(url) for _ in range(8)]
        finally:
            server.end()
    said = (tmp_path / "log").read_text()
    if api_servers > 1:
        assert {"ApiServer_0", "ApiServer_1"} <= set(re.findall(r"ApiServer_\d", said))
    after = scrapes[0]
    assert scrapes == [after] * len(scrapes)
    assert set(before.values()) == {0}  # nothing of the start
    for name, expected in {
        "prefill_steps": REQUESTS,
        "plans_built": REQUESTS,
        "plans_reused": 2 * REQUESTS,
        "metadata_host_seconds_count": REQUESTS,
        "bytes_copied": 0,  # on CPU
        "table_kernels": 0,
        "slot_waits": 0,
    }.items():
        assert after[name] == expected, name
    assert after["steps"] >= 5 * REQUESTS
    assert after["metadata_host_seconds_sum"] > 0
    active = rf"ascend-gdn \S+, vLLM {check_version().vllm}, cpu: .*; metrics published\.$"
    assert len(re.findall(active, said, re.MULTILINE)) == 1
    (ends,) = re.findall(r"ascend-gdn: ends after (.*)\.", said)
    counted = {name: float(count) for name, count in map(str.split, ends.split(", "))}
    host_us, _ = counted.pop("host_us"), counted.pop("pool_bytes")
    assert counted == {name: after[name] for name in counted}
    assert host_us == pytest.approx(after["metadata_host_seconds_sum"] * 1e6, abs=1)
