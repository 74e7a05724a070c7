# SPDX-License-Identifier: Apache-2.0
"""Run a command to its end, and all the processes that it starts: none may outlive it."""

from __future__ import annotations

import ctypes
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36  # <sys/prctl.h>
_SHARED_MEMORY = Path("/dev/shm")
_GRACE = 15
"""Seconds that workers have to end after the command itself has."""


def run_to_the_end(
    command: list[str], env: dict[str, str], folder: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run ``command``; raises ``AssertionError`` with its output if it leaves a process behind.

    Its output goes to ``folder/log.txt``: a pipe would stay open as long as any of its processes.
    """
    log = folder / "log.txt"
    began = time.time()
    with _adopting_orphans() as descendants, log.open("w") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)
        try:
            process.wait(timeout)
        finally:  # on a time-out, nothing is given any grace
            left = _end(descendants(), grace=0 if process.poll() is None else _GRACE)
            process.wait()
            _unlink_shared_memory_since(began)
    output = log.read_text()
    assert not left, f"left behind: {left}\n{output[-6000:]}"
    return subprocess.CompletedProcess(command, process.returncode, output)


@contextmanager
def _adopting_orphans() -> Iterator[Callable[[], list[psutil.Process]]]:
    """While this is open, a descendant whose parent ends becomes a child of this process."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    before = set(psutil.Process().children(recursive=True))
    assert prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield lambda: [p for p in psutil.Process().children(recursive=True) if p not in before]
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _end(processes: list[psutil.Process], grace: float) -> list[str]:
    """Wait for ``processes``, then kill those that are still there and return what they are."""
    _, running = psutil.wait_procs(processes, timeout=grace)
    left = []
    for process in running:
        with suppress(psutil.NoSuchProcess):
            left.append(f"{process.pid} {' '.join(process.cmdline())}")
            process.kill()
    psutil.wait_procs(running, timeout=_GRACE)
    return left


def _unlink_shared_memory_since(began: float) -> None:
    """Remove segments made since then that no process has mapped.

    vLLM 0.23.0 leaves some: workers that are killed (ray.kill, or SIGTERM after the executor's
    grace period) do not unlink theirs.
    """
    # Listed first: an engine beside this one may make others meanwhile, and maps its own at once.
    segments = [
        segment for pattern in ("psm_*", "*-cpushm_*") for segment in _SHARED_MEMORY.glob(pattern)
    ]
    mapped = ""
    for process in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            mapped += process.read_text()
    for segment in segments:
        with suppress(FileNotFoundError):  # its own engine has removed it
            if segment.stat().st_ctime >= began and segment.name not in mapped:
                segment.unlink()
