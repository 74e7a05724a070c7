# SPDX-License-Identifier: Apache-2.0
"""Clients that leave in the middle, 200 of them: nothing of theirs stays behind."""

from __future__ import annotations

import json
import random
import socket
import struct
import urllib.request
from pathlib import Path

import psutil
import pytest

from demo_server import Server
from serve import server_command, server_environment
from server_ports import port_of, reserve_port

from .test_recall import MODEL, MTP
from .test_server_chaos import wait_until_idle

pytestmark = [pytest.mark.engine, pytest.mark.slow]

CLIENTS = 200
OPTIONS = [
    "--served-model-name", "m",
    "--dtype", "float32",
    "--max-model-len", "2048",
    "--max-num-seqs", "8",
    "--max-num-batched-tokens", "256",
    "--speculative-config", json.dumps(MTP["speculative_config"]),
]  # fmt: skip
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: a reset, not an orderly end


def body(tokens: int, stream: bool) -> bytes:
    prompt = [5 + token % 90 for token in range(tokens)]
    request = {"model": "m", "prompt": prompt, "max_tokens": 64, "stream": stream, "temperature": 0}
    return json.dumps(request).encode()


def leave(port: int, chance: random.Random) -> None:
    """Ask for something, hear some of it or nothing, and go, with or without a word."""
    asked = body(chance.randrange(1, 1500), stream=chance.random() < 0.7)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        if chance.random() < 0.5:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: m\r\nContent-Length: {len(asked)}\r\n"
        sent = head.encode() + b"Content-Type: application/json\r\n\r\n" + asked
        if chance.random() < 0.2:
            client.sendall(sent[: len(sent) // 2])
            return
        client.sendall(sent)
        if chance.random() < 0.5:
            client.recv(chance.randrange(1, 2000))


def answer(url: str) -> str:
    request = urllib.request.Request(
        f"{url}/v1/completions", body(700, stream=False), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)["choices"][0]["text"]


def held() -> tuple[int, set[str]]:
    """Open files of all processes below this one, and shared memory."""
    below = psutil.Process().children(recursive=True)
    return sum(each.num_fds() for each in below), {path.name for path in Path("/dev/shm").iterdir()}


def test_nothing_stays_of_200_clients_that_left(tmp_path):
    reserved = reserve_port()
    port = port_of(reserved)
    environment = server_environment() | {"VLLM_SERVER_DEV_MODE": "1"}
    command = server_command(MODEL, port, extra=OPTIONS)
    with Server(command, environment, reserved, tmp_path / "log.txt") as server:
        server.wait_until_healthy(timeout=600)
        expected = answer(server.url)
        wait_until_idle(server)
        (files, shared), pools = held(), server.call_workers("gdn_stats")[0]["pool_bytes"]
        chance = random.Random(0)
        for _ in range(CLIENTS):
            leave(port, chance)
        after = wait_until_idle(server)
        server.check_alive()
        assert answer(server.url) == expected
        files_then, shared_then = held()
        print(f"open files: {files}, then {files_then}; {after['vllm:num_preemptions_total']:.0f} "
              "preempted")  # fmt: skip
        assert after["vllm:num_requests_running"] == after["vllm:num_requests_waiting"] == 0
        assert after["vllm:kv_cache_usage_perc"] == 0
        assert server.call_workers("gdn_stats")[0]["pool_bytes"] == pools
        assert files_then < files + 10
        assert shared_then == shared
