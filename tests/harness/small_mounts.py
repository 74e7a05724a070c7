# SPDX-License-Identifier: Apache-2.0
"""A small disk, which only the command that is run over it sees."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

_MOUNT = """
mount -t tmpfs -o "size=$1" none "$2"
if [ "$3" = full ]; then cat /dev/zero > "$2/fill" 2>/dev/null || true; fi
shift 3
exec "$@"
"""


def over_small_disk(
    folder: Path, command: Sequence[str], size: str = "64k", full: bool = False
) -> list[str]:
    """``command`` with a tmpfs of ``size`` in ``folder``, ``full`` or empty.

    Skips the test where nothing may be mounted. From outside the tmpfs is seen through
    ``/proc/PID/root``.
    """
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    shell = [*unshare, "sh", "-ec", _MOUNT, "sh", size, str(folder), "full" if full else "empty"]
    try:
        tried = subprocess.run([*shell, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare here, to mount a small disk with")
    if tried.returncode:
        pytest.skip(f"no small disk can be mounted here: {tried.stderr.strip()}")
    return [*shell, *command]
