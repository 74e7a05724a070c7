# SPDX-License-Identifier: Apache-2.0
"""However a served model ends, its clients hear of it, and no process or shared memory is left."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL

import psutil
import pytest

import serve
from server_ports import port_of, reserve_port

from .job import ENVIRONMENT

pytestmark = [pytest.mark.engine]
HANG = 100
"""Seconds after which something is held to go on for ever. A client itself waits for 600."""


class Served:
    """``examples/serve.py`` with all that it started."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log
        self.processes = processes_of(process)
        self.segments = {name for p in self.processes for name in shared_memory(p)}

    def pid_of(self, name: str) -> int:
        """Of vLLM's process that logs as ``name``."""
        found = re.search(rf"\({name} pid=(\d+)\)", self.log.read_text())
        assert found, self.log.read_text()[-6000:]
        return int(found[1])

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=60) as answer:
            return answer.read().decode()

    def exit_code(self) -> int:
        """Of ``serve.py``; fails if anything is left of the server."""
        code = self.process.wait(HANG)
        _, left = psutil.wait_procs(self.processes, timeout=HANG)
        assert not left, f"still there: {left}\n{self.log.read_text()[-6000:]}"
        assert not {name for name in self.segments if Path(name).exists()}
        return code


def processes_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(process.pid)
        return [top, *top.children(recursive=True)]
    return []


def shared_memory(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return [m.path for m in process.memory_maps() if m.path.startswith("/dev/shm/")]
    return []


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    log = folder / "log.txt"
    with reserve_port() as reserved:  # given back: serve.py refuses a port that is taken
        port = port_of(reserved)
    command = [sys.executable, serve.__file__, "--port", str(port), "--dtype", "float32"]
    command += ["--max-num-batched-tokens", "4096", "--max-num-seqs", "4"]
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    started = None
    try:
        while "Application startup complete" not in log.read_text():
            assert process.poll() is None, log.read_text()[-6000:]
            time.sleep(0.2)
        started = Served(process, port, log)
        assert started.segments
        yield started
    finally:
        for each in started.processes if started else processes_of(process):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


class Client(threading.Thread):
    """Asks for a long answer to a prompt whose prefill takes a step of its own."""

    def __init__(self, port: int, stream: bool) -> None:
        super().__init__(daemon=True)
        self.content = {"model": "recall_model", "prompt": [5] * 4000, "max_tokens": 90,
                        "ignore_eos": True, "stream": stream}  # fmt: skip
        self.url = f"http://127.0.0.1:{port}/v1/completions"
        self.answer = ""

    def run(self) -> None:
        request = urllib.request.Request(
            self.url,
            data=json.dumps(self.content).encode(),
            headers={"Content-Type": "application/json"},
        )
        refused_or_cut_off = suppress(OSError, http.client.HTTPException)
        with refused_or_cut_off, urllib.request.urlopen(request, timeout=600) as answer:
            self.answer = answer.read().decode()


def test_clients_hear_of_a_termination_in_their_prefill(tmp_path):
    with served(tmp_path) as server:
        clients = [Client(server.port, stream=bool(i % 2)) for i in range(24)]
        for client in clients:
            client.start()
        while not re.search(r"^vllm:num_requests_waiting\{.*[1-9]", server.get("metrics"), re.M):
            time.sleep(0.05)
        # All at once, as systemd does by default; by itself vLLM then waits for its clients.
        for process in server.processes:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        assert server.exit_code() == 0
        for client in clients:
            client.join(HANG)
        assert not any(client.is_alive() for client in clients)
        assert not any(client.answer.count('"finish_reason":"length"') for client in clients[-4:])


@pytest.mark.parametrize(
    ("victim", "code"),
    [
        ("EngineCore", 1),
        pytest.param("APIServer", 137, marks=pytest.mark.slow),
        pytest.param("serve.py", -SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_left_of_a_server_that_is_killed(victim, code, tmp_path):
    with served(tmp_path) as server:
        os.kill(server.process.pid if victim == "serve.py" else server.pid_of(victim), SIGKILL)
        assert server.exit_code() == code
