# SPDX-License-Identifier: Apache-2.0
"""However a server, its supervisor or their owner ends, nothing of the server is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import server_guard
from server_guard import Supervised, end_session, interrupt_on_signals, members

# A server with an engine that is deaf to polite signals, both over a segment of shared memory that
# no resource tracker knows of; it does what it is told once both are there.
ENGINE = """
import signal, sys, time
from multiprocessing import resource_tracker, shared_memory
signal.signal(signal.SIGTERM, signal.SIG_IGN)
segment = shared_memory.SharedMemory(sys.argv[1])
resource_tracker.unregister("/" + segment.name, "shared_memory")
print("ready", flush=True)
time.sleep(600)
"""
SERVER = f"""
import os, signal, subprocess, sys, time
from multiprocessing import resource_tracker, shared_memory
segment = shared_memory.SharedMemory(create=True, size=64)
resource_tracker.unregister("/" + segment.name, "shared_memory")
engine = [sys.executable, "-c", {ENGINE!r}, segment.name]
child = subprocess.Popen(engine, stdout=subprocess.PIPE)
child.stdout.readline()
print(os.getppid(), os.getpid(), child.pid, segment.name, flush=True)
"""
WAIT = "time.sleep(600)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); " + WAIT
# The owner's script: what serve.py does, with the server's code as its argument.
OWNER = """
import signal, sys
# A job in the background ignores the one, and all under nohup the other.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.path.insert(0, sys.argv[1])
from serve import run
sys.exit(run([sys.executable, "-c", sys.argv[2]], patience=float(sys.argv[3])))
"""


class Tree:
    """What a started server says of itself in ``log``."""

    def __init__(self, log: Path) -> None:
        while not log.read_text().endswith("\n"):
            time.sleep(0.02)
        pids = log.read_text().split()[:4]
        self.supervisor, self.server, self.engine = (psutil.Process(int(p)) for p in pids[:3])
        self.segment = Path("/dev/shm", pids[3])
        assert self.segment.exists()

    def assert_gone(self) -> None:
        _, left = psutil.wait_procs([self.supervisor, self.server, self.engine], timeout=60)
        assert not left
        assert not self.segment.exists()


@pytest.fixture
def start(tmp_path):
    """Starts a server that ends with ``last``; returns it and its processes."""
    started = []

    def start_one(last: str, patience: float = 60) -> tuple[Supervised, Tree]:
        with (tmp_path / "log").open("wb") as output:
            command = [sys.executable, "-c", SERVER + last]
            started.append(Supervised(command, dict(os.environ), output, patience))
        return started[-1], Tree(tmp_path / "log")

    yield start_one
    for each in started:
        end_session(each.process.pid, set())


def test_a_server_that_is_asked_to_end(start):
    server, tree = start(WAIT)
    assert server.end() == 0
    tree.assert_gone()
    assert server.end() == 0  # again: nothing to do


def test_a_server_that_does_not_listen_is_ended_with_its_connections(start, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        held = f"import socket; held = socket.create_connection(('127.0.0.1', {port})); "
        server, tree = start(held + DEAF, patience=0.1)
        client, _ = listener.accept()
    while "deaf" not in (tmp_path / "log").read_text():
        time.sleep(0.02)
    client.settimeout(60)
    assert server.end() == 0
    with client:
        assert client.recv(1) == b""  # closed: nobody waits for an answer
    tree.assert_gone()


@pytest.mark.parametrize(
    ("last", "expected"),
    [("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGSEGV)", 139), ("sys.exit(0)", 1)],
    ids=["with a code", "by a signal", "with 0, unasked"],
)
def test_a_server_that_ends_by_itself(start, last, expected, tmp_path):
    server, tree = start(f"time.sleep({2 * server_guard._LOOK}); {last}")
    server.process.wait(60)
    tree.assert_gone()
    said = (tmp_path / "log").read_text().splitlines()[-1]
    assert said.startswith("the server ended with code ")
    assert ("but unasked" in said) == ("exit(0)" in last)
    assert server.end() == expected


STUCK = """
import sys
sys.path.insert(0, sys.argv[1])
import os, server_guard
server_guard._UNNOTICED = float(sys.argv[2])
sys.exit(server_guard.supervise(os.getppid(), 60, [sys.executable, "-c", sys.argv[3]]))
"""
WORKER = "ctypes.CDLL(None).prctl(15, b'VLLM::Worker_TP0', 0, 0, 0)"  # PR_SET_NAME
LOSES_A_WORKER = f"""
child = subprocess.Popen([sys.executable, "-c", "import ctypes, time; {WORKER}; time.sleep(3)"])
child.wait()
"""


@pytest.mark.parametrize(
    ("last", "unnoticed", "expected"),
    [(LOSES_A_WORKER + WAIT, 0.1, 1), (LOSES_A_WORKER + "time.sleep(5); sys.exit(7)", 60, 7)],
    ids=["goes on", "ends by itself"],
)
def test_a_server_that_has_lost_a_worker(tmp_path, last, unnoticed, expected):
    log, examples = tmp_path / "log", str(Path(server_guard.__file__).parent)
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-c", STUCK, examples, str(unnoticed), SERVER + last],
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    tree = Tree(log)
    assert supervisor.wait(60) == expected
    tree.assert_gone()
    assert ("its engine or a worker had died" in log.read_text()) == (expected == 1)


@pytest.mark.parametrize("victim", ["server", "supervisor"])
def test_a_killed_one(start, victim):
    server, tree = start(WAIT)
    getattr(tree, victim).kill()
    server.process.wait(60)
    assert server.end() == 137
    tree.assert_gone()


def own(
    tmp_path: Path, last: str, patience: int = 60, **options
) -> tuple[subprocess.Popen[bytes], Tree]:
    """An owner such as serve.py, in a process of its own."""
    examples = str(Path(server_guard.__file__).parent)
    with (tmp_path / "log").open("wb") as output:
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, examples, SERVER + last, str(patience)],
            stdout=output,
            stderr=output,
            **options,
        )
    return owner, Tree(tmp_path / "log")


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_owner_that_is_ended(tmp_path, sign):
    owner, tree = own(tmp_path, WAIT)
    owner.send_signal(sign)
    assert owner.wait(60) == (-9 if sign == signal.SIGKILL else 0)
    tree.assert_gone()


def test_a_second_interrupt_ends_it_at_once(tmp_path):
    owner, tree = own(tmp_path, DEAF, patience=3600)
    for said in ("deaf", "ending the server"):
        while said not in (tmp_path / "log").read_text():
            time.sleep(0.02)
        owner.send_signal(signal.SIGINT)
    assert owner.wait(60) == 0
    tree.assert_gone()


def test_a_termination_of_every_process_leaves_the_server_its_time(tmp_path):
    # As systemd does by default: owner and supervisor are told, and the one tells the other again.
    takes_its_time = """
def finish(*_):
    time.sleep(1)
    print("finished", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, finish)
print("prepared", flush=True)
time.sleep(600)
"""
    owner, tree = own(tmp_path, takes_its_time)
    while "prepared" not in (tmp_path / "log").read_text():
        time.sleep(0.02)
    for process in (tree.supervisor, psutil.Process(owner.pid)):
        process.terminate()
    assert owner.wait(60) == 0
    assert "finished" in (tmp_path / "log").read_text()
    tree.assert_gone()


def test_a_closed_terminal_does_not_end_what_nohup_started(tmp_path):
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    owner, tree = own(tmp_path, WAIT, preexec_fn=ignore)
    owner.send_signal(signal.SIGHUP)
    tree.supervisor.send_signal(signal.SIGHUP)
    owner.send_signal(signal.SIGTERM)
    assert owner.wait(60) == 0
    tree.assert_gone()


def test_processes_of_other_sessions_are_left_alone(start):
    server, tree = start(WAIT)
    of_server = set(members(server.process.pid))
    assert {tree.supervisor, tree.server, tree.engine} <= of_server
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert not {psutil.Process(other.pid), psutil.Process()} & of_server
        server.end()
        assert other.poll() is None
        other.terminate()


def test_signals_that_are_ignored_stay_ignored():
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)}
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupt_on_signals()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for sign, handler in {**before, signal.SIGHUP: hang_up}.items():
            signal.signal(sign, handler)
