# SPDX-License-Identifier: Apache-2.0
"""A server that starts with a progress display and ends without leaving anything behind."""

import json
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from server_guard import PATIENCE, Supervised
from server_log import StartProgress, first_error, hint, last_lines
from server_ports import port_of

# No proxy of the environment: the server is on this machine.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class ServerError(RuntimeError):
    """The server did not come up, or went away; the message holds the end of its log."""


class Server:
    """Runs ``command`` under a supervisor, its output in ``log``, its port ``reserved`` for it.

    Use it as a context manager: on leaving, however that happens, all of it is ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        reserved: socket.socket,
        log: Path,
        patience: float = PATIENCE,
    ) -> None:
        self.command = list(command)
        self.environment = environment
        self.url = f"http://127.0.0.1:{port_of(reserved)}"
        self.log = log
        self.patience = patience
        self._reserved = reserved

    def __enter__(self) -> "Server":
        with self.log.open("wb") as output:
            self._supervised = Supervised(self.command, self.environment, output, self.patience)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A second Ctrl-C must not get in the way of ending it.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._supervised.end()
        finally:
            signal.signal(signal.SIGINT, previous)
            self._reserved.close()

    def wait_until_healthy(
        self,
        timeout: float,
        say: Callable[[str], None] = print,
        status: Callable[[str], None] | None = None,
    ) -> float:
        """Returns the seconds it took; raises ServerError if it dies or ``timeout`` passes.

        ``say`` is given a line for each phase of the start; ``status``, where there is one, what
        goes on, twice a second.
        """
        start = time.monotonic()
        progress = StartProgress(self.log, say, steady=status is None)
        while not self._healthy():
            self.check_alive()
            now = progress.look()
            if time.monotonic() - start > timeout:
                message = f"the server is not up after {timeout:.0f} s ({now})"
                raise ServerError(self.with_log(message))
            if status is not None:
                status(now)
            time.sleep(0.5)
        progress.end()
        return time.monotonic() - start

    def call_workers(self, method: str) -> list[object]:
        """What ``method`` of each worker returns (vLLM's development-mode /collective_rpc)."""
        body = json.loads(self.post("collective_rpc", {"method": method}))
        results: list[object] = body["results"]
        return results

    def post(self, path: str, content: object, timeout: float = 60) -> bytes:
        """The answer to ``content``, sent as JSON; raises ServerError if there is none."""
        request = urllib.request.Request(
            f"{self.url}/{path}",
            data=json.dumps(content).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with _open(request, timeout=timeout) as answer:
                found: bytes = answer.read()
        except (urllib.error.URLError, TimeoutError) as error:
            message = f"the server does not answer {content} at /{path}: {error}"
            raise ServerError(self.with_log(message)) from error
        return found

    def check_alive(self) -> None:
        if self._supervised.process.poll() is not None:
            raise ServerError(self.with_log(f"the server ended with code {self._supervised.end()}"))

    def _healthy(self) -> bool:
        try:
            with _open(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def with_log(self, message: str) -> str:
        """``message``, the end of the log, the first error in it, and what to do."""
        found = first_error(self.log)
        cause = [f"First error in it: {found}"] if found else []
        return "\n".join(
            [
                f"{message}. The end of its log:",
                *last_lines(self.log, 20),
                *cause,
                f"What to do: {hint(self.log, message)}.",
                f"The whole log: {self.log}",
            ]
        )
