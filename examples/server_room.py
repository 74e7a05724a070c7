# SPDX-License-Identifier: Apache-2.0
"""Which room a server must find: vLLM 0.23.0 does not ask.

It maps files with holes, messages between its processes in /dev/shm and prometheus_client's counts.
On a full disk the first write into one kills the process by SIGBUS, after a start of minutes.
"""

import os
from collections.abc import Mapping
from pathlib import Path

METRICS = "PROMETHEUS_MULTIPROC_DIR"
_NEEDED = 1024
"""KiB: a small server's messages, or its counts. Larger ones take more of /dev/shm."""


class RoomError(RuntimeError):
    """A server would not find the room that it needs."""


def refuse_full(environment: Mapping[str, str]) -> None:
    """Raises RoomError if a server with ``environment`` would lack room where it maps files."""
    _refuse("/dev/shm", Path("/dev/shm"), "make room there; Docker gives more with --shm-size 1g")
    folder = environment.get(METRICS)
    if folder is not None:
        _refuse(f"{METRICS}={folder}", Path(folder), "give an empty one, or unset it")


def _refuse(name: str, folder: Path, advice: str) -> None:
    expected = f"expected a folder that can be written, with {_NEEDED} KiB at least"
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise RoomError(f"got {name}, which is none; {expected}: {advice}")
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize // 1024
    if free < _NEEDED:
        raise RoomError(f"got {name} with {free} KiB free; {expected}: {advice}")
