# SPDX-License-Identifier: Apache-2.0
"""Run a server so that nothing of it outlives it: no process, and no shared memory.

Its owner (``serve.py``, the demo, a benchmark) starts this file as a script in a session of its
own, and the script the server. Each watches the other: if the owner ends, however it does, Linux
sends the script a signal, and the script ends the server; if the script is killed, the owner does.

What vLLM 0.23.0 leaves to them: a termination ends its engine and may then wait for clients whose
answers can no longer come (``entrypoints/launcher.py``: uvicorn's shutdown without a time limit); a
worker that dies once it has loaded the model, while the engine starts, may leave the engine in its
exit (zmq's ``Context.term``), where the server waits for it without end;
engine and worker of a killed API server go on for minutes; a server whose engine is killed ends
with code 0; shared memory of killed processes stays where Python does not track it, as between
tensor-parallel workers on CPU.

    server_guard.py OWNER_PID PATIENCE COMMAND...
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO

import psutil  # type: ignore[import-untyped]

PATIENCE = 5.0
"""Seconds that a server has to end in, once it is asked to; well below the 10 of `docker stop`."""
_GRACE = 10.0
"""Seconds in which killed processes are gone."""
_LOOK = 2.0
"""Seconds between two looks at which shared memory the server has."""
_UNNOTICED = 30.0
"""Seconds in which a server ends by itself whose engine or worker has died; mostly it takes 5."""
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def interrupt_on_signals() -> None:
    """SIGTERM and a closed terminal become KeyboardInterrupt, as Ctrl-C is, unless they are
    ignored, as under nohup.

    Only the first does: some send them to every process, and an owner tells its supervisor again.
    """
    once = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]

    def interrupt(sign: int, frame: FrameType | None) -> None:
        for each in once:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for sign in once:
        signal.signal(sign, interrupt)


class Supervised:
    """The owner's side: ``command`` under a supervisor, in a session of its own.

    ``end()`` is to be called, however the server came to its end.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: IO[bytes] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """``output`` takes stdout and stderr; by default they are the caller's."""
        self.patience = patience
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(os.getpid()), str(patience), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def end(self) -> int:
        """Ends what still runs; returns the exit code as a shell would give it.

        0 if the server ended because it was asked to. Ctrl-C meanwhile ends it at once.
        """
        if self.process.poll() is None:
            try:
                self.process.terminate()
                self._wait()
            except KeyboardInterrupt:
                self.process.send_signal(signal.SIGINT)
                self._wait()
        code = self.process.wait()
        if code < 0:  # it was killed, and could end nothing
            end_session(self.process.pid, shared_memory(self.process.pid))
        return _as_shell(code)

    def _wait(self) -> None:
        try:
            self.process.wait(self.patience + 2 * _GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()


def members(session: int) -> list[psutil.Process]:
    """The other processes of ``session`` that still run, whoever is their parent now."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def shared_memory(session: int) -> set[Path]:
    """The segments that processes of ``session`` have mapped."""
    found = set()
    for process in members(session):
        with suppress(OSError):
            for line in Path("/proc", str(process.pid), "maps").read_text().splitlines():
                if "/dev/shm/" in line and not line.endswith("(deleted)"):
                    found.add(Path(line[line.index("/dev/shm/") :]))
    return found


class EngineWatch:
    """Finds that a server goes on without an engine or a worker that it had.

    One that ends before a look has seen it is not missed.
    """

    def __init__(self) -> None:
        self._seen: set[psutil.Process] = set()
        self._since: float | None = None

    def is_stuck(self, session: int) -> bool:
        """Whether it has for too long; to be called again and again."""
        there = set()
        for process in members(session):
            with suppress(psutil.Error):  # the names that vLLM gives them
                if process.name().startswith(("VLLM::EngineCore", "VLLM::Worker")):
                    there.add(process)
        if self._seen <= there:
            self._seen = there
            return False
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since > _UNNOTICED


def end_session(session: int, segments: set[Path]) -> None:
    """Kills the other processes of ``session``, and removes ``segments``."""
    deadline = time.monotonic() + _GRACE
    while (left := members(session)) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.Error):
                # Python's resource tracker ends with the last of its processes, and removes what
                # they left.
                if not any("multiprocessing.resource_tracker" in a for a in process.cmdline()):
                    process.kill()
        time.sleep(0.05)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for segment in segments:
        segment.unlink(missing_ok=True)


def _as_shell(code: int) -> int:
    return code if code >= 0 else 128 - code


def _end_with(owner: int) -> None:
    """Have the end of ``owner`` interrupt this process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != owner:  # it ended before
        raise KeyboardInterrupt


def supervise(owner: int, patience: float, command: Sequence[str]) -> int:
    """The script's side: run ``command`` to its end; returns an exit code."""
    server: subprocess.Popen[bytes] | None = None
    segments: set[Path] = set()
    watch = EngineWatch()
    asked = stuck = False
    try:
        _end_with(owner)
        server = subprocess.Popen(command)
        while server.poll() is None and not stuck:
            with suppress(subprocess.TimeoutExpired):
                server.wait(_LOOK)
            segments |= shared_memory(os.getpid())
            stuck = watch.is_stuck(os.getpid())
    except KeyboardInterrupt:
        asked = True
        if server is not None:
            _ask_to_end(server, patience)
    finally:
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, signal.SIG_IGN)
        end_session(os.getpid(), segments | shared_memory(os.getpid()))
    if asked or server is None:
        return 0
    if stuck:
        _say("the server is ended by force: its engine or a worker had died, and it waited on")
        return 1
    code = _as_shell(server.returncode)
    unasked = "" if code else ", but unasked: an error above is the cause"
    _say(f"the server ended with code {code}{unasked}; all that it started is ended too")
    # A server that had an engine does not end unasked unless something went wrong.
    return code or (1 if segments else 0)


def _ask_to_end(server: subprocess.Popen[bytes], patience: float) -> None:
    try:
        _say("ending the server")
        server.terminate()
        server.wait(patience)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        _say("the server is ended by force, and so are its connections")


def _say(message: str) -> None:
    with suppress(OSError):  # the terminal is closed
        print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    interrupt_on_signals()
    sys.exit(supervise(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
