# SPDX-License-Identifier: Apache-2.0
"""``examples/serve.py`` with the small trained model, and clients that ask for long answers."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

import serve
from server_ports import port_of, reserve_port

from .job import ENVIRONMENT

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

    def wait_until_a_prefill_waits(self) -> None:
        """Then one runs too, if there is room for several requests."""
        while not re.search(r"^vllm:num_requests_waiting\{.*[1-9]", self.get("metrics"), re.M):
            time.sleep(0.05)

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
def served(
    folder: Path,
    *flags: str,
    port: int = 0,
    env: Mapping[str, str] | None = None,
    over: Callable[[Sequence[str]], list[str]] = list,
    until: str = "Application startup complete",
) -> Iterator[Served]:
    """Once its log says ``until``.

    Args:
        folder: For its log.
        flags: More of them.
        port: 0 for a free one.
        env: More of the environment.
        over: What makes the command another.
        until: Words of the log.
    """
    log = folder / "log.txt"
    if not port:
        with reserve_port() as reserved:  # given back: serve.py refuses a port that is taken
            port = port_of(reserved)
    command = [sys.executable, serve.__file__, "--port", str(port), "--dtype", "float32"]
    command += ["--max-num-batched-tokens", "4096", "--max-num-seqs", "4", *flags]
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            over(command), env=environment | dict(env or {}), stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    started = None
    try:
        while until not in log.read_text():
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
        self.port = port
        self.answer = ""

    def run(self) -> None:
        with suppress(OSError, http.client.HTTPException):  # refused, or cut off
            self.answer = completion(self.port, self.content, timeout=600)


def completion(port: int, content: Mapping[str, object], timeout: float) -> str:
    """What the server answers, as JSON or, if it streams, as events."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        data=json.dumps(content).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.read().decode()


def clients_in_a_prefill(server: Served) -> list[Client]:
    """More than run at once, every second of which streams."""
    clients = [Client(server.port, stream=bool(i % 2)) for i in range(24)]
    for client in clients:
        client.start()
    server.wait_until_a_prefill_waits()
    return clients


def assert_all_hear_of_the_end(clients: Sequence[Client]) -> None:
    """The last of them without an answer: it had not begun."""
    for client in clients:
        client.join(HANG)
    assert not any(client.is_alive() for client in clients)
    assert not any(client.answer.count('"finish_reason":"length"') for client in clients[-4:])
