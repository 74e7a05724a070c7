# SPDX-License-Identifier: Apache-2.0
"""Which addresses a server may take: vLLM 0.23.0 does not ask.

It binds with SO_REUSEPORT (``create_server_socket`` of ``entrypoints/openai/api_server.py``): a
second server on a port starts, and clients are split between the two at random.
"""

import errno
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

_CLOSING = {
    psutil.CONN_TIME_WAIT,
    psutil.CONN_FIN_WAIT1,
    psutil.CONN_FIN_WAIT2,
    psutil.CONN_LAST_ACK,
    psutil.CONN_CLOSING,
}


class AddressError(RuntimeError):
    """A server cannot have this address."""


def reserve_port() -> socket.socket:
    """A loopback socket on a port of its own.

    Until it is closed a server may bind the port as well, as vLLM does, and nobody is given it.
    """
    reserved = _socket("127.0.0.1", shared=True)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def port_of(reserved: socket.socket) -> int:
    port: int = reserved.getsockname()[1]
    return port


def refuse_taken(host: str, port: int) -> None:
    """Raises AddressError if a server on ``host`` and ``port`` would share them, or cannot bind."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        with _socket(host, shared=False) as probe:
            probe.bind((host, port))
        return
    except OverflowError as error:
        raise AddressError(f"got port {port}, expected 0 to 65535") from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise AddressError(
                f"{where} cannot be bound: {error.strerror}; give an address of this machine with "
                "--host, and a port above 1023 with --port"
            ) from error
    held = [each for each in psutil.net_connections("tcp") if each.laddr and each.laddr[1] == port]
    # Connections that an ended server has closed hold its port for a minute more; vLLM may bind it.
    # A port that is taken with no connection at all is that of a server that still starts.
    if held and all(each.status in _CLOSING for each in held):
        return
    raise AddressError(
        f"got {where}, which is taken{_by(held)}; expected a free port: "
        "give another with --port (make serve PORT=…), or end what has it"
    )


def refuse_taken_path(path: Path) -> None:
    """The same for a Unix domain socket, whose path vLLM 0.23.0 must not find."""
    if path.exists():
        raise AddressError(
            f"got --uds {path}, which exists; expected a path that is free: if no server listens "
            "there any more, delete it"
        )


def _socket(host: str, shared: bool) -> socket.socket:
    """Of the family that vLLM takes for ``host``."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return made


def _by(held: Sequence[Any]) -> str:
    for each in held:
        if each.pid is not None:
            with suppress(psutil.Error):
                command = " ".join(psutil.Process(each.pid).cmdline())
                return f" by process {each.pid} ({command[:80]})"
    return ""
