# SPDX-License-Identifier: Apache-2.0
"""A server is refused, before it loads anything, where a full disk would kill it by a signal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import serve
from server_ports import port_of, reserve_port
from server_room import METRICS, RoomError, refuse_full
from small_mounts import over_small_disk


def disks(mocker, **free: int) -> None:
    """``os.statvfs`` for folders of these names, with so many KiB free."""
    mocker.patch(
        "os.statvfs",
        side_effect=lambda folder: SimpleNamespace(f_bavail=free[folder.name], f_frsize=1024),
    )


def test_room_enough(mocker, tmp_path):
    (tmp_path / "metrics").mkdir()
    disks(mocker, shm=1024, metrics=1024)
    refuse_full({})
    refuse_full({METRICS: str(tmp_path / "metrics")})


@pytest.mark.parametrize(
    ("free", "named", "advice"),
    [
        ({"shm": 1023, "metrics": 1024}, "got /dev/shm with 1023 KiB free", "--shm-size 1g"),
        ({"shm": 1024, "metrics": 3}, "got {} with 3 KiB free", "give an empty one"),
    ],
)
def test_a_full_disk_is_refused(mocker, tmp_path, free, named, advice):
    folder = tmp_path / "metrics"
    folder.mkdir()
    disks(mocker, **free)
    with pytest.raises(RoomError) as error:
        refuse_full({METRICS: str(folder)})
    assert named.format(f"{METRICS}={folder}") in str(error.value)
    assert advice in str(error.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RoomError, match=r"got .*/missing, which is none; expected a folder that"):
        refuse_full({METRICS: str(tmp_path / "missing")})


@pytest.mark.parametrize("full", ["/dev/shm", "metrics"])
def test_serve_says_so_at_once(full, tmp_path):
    folder = Path(full) if full.startswith("/") else tmp_path
    with reserve_port() as reserved:
        port = port_of(reserved)
    refused = subprocess.run(
        over_small_disk(folder, [sys.executable, serve.__file__, "--port", str(port)]),
        env=os.environ | ({} if full.startswith("/") else {METRICS: str(folder)}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: got ")
    assert " with 64 KiB free; expected a folder that can be written, with 1024 KiB" in line
