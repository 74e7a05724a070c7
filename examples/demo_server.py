# SPDX-License-Identifier: Apache-2.0
"""A server process that starts with a progress display and ends without leaving anything behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # benchmarks/serving runs where rich is not installed
    from rich.console import Console


class ServerError(RuntimeError):
    """The server did not come up, or went away; the message holds the end of its log."""


def free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def last_lines(log: Path, count: int) -> list[str]:
    """The last ``count`` lines of ``log`` that are not empty."""
    lines = [line.rstrip() for line in log.read_text(errors="replace").splitlines()]
    return [line for line in lines if line][-count:]


def bare_message(line: str) -> str:
    """``line`` of vLLM's log without the process, level, time and place in front of it."""
    return re.sub(r"^(\([^)]*\) )?([A-Z]+ [\d-]+ [\d:]+ \[[^]]*\] )?", "", line)


def first_error(log: Path) -> str | None:
    """The first exception that ``log`` tells of: the cause, where later ones only pass it on."""
    for line in log.read_text(errors="replace").splitlines():
        message = bare_message(line)
        if re.match(r"[\w.]*(Error|Exception): ", message):
            return message
    return None


class Server:
    """Runs ``command`` in a process group of its own, its output in ``log``.

    Use it as a context manager: on leaving, however that happens, the whole group is ended.
    """

    def __init__(
        self, command: Sequence[str], environment: dict[str, str], port: int, log: Path
    ) -> None:
        self.command = list(command)
        self.environment = environment
        self.url = f"http://127.0.0.1:{port}"
        self.log = log

    def __enter__(self) -> "Server":
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A second Ctrl-C must not get in the way of ending the group.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.stop()
        finally:
            signal.signal(signal.SIGINT, previous)

    def wait_until_healthy(self, console: "Console", timeout: float) -> float:
        """Returns the seconds it took; raises ServerError if it dies or ``timeout`` passes."""
        start, reported = time.monotonic(), 0.0
        with console.status("starting the server") as status:
            while not self._healthy():
                elapsed = time.monotonic() - start
                self.check_alive()
                if elapsed > timeout:
                    raise ServerError(self.with_log(f"the server is not up after {timeout:.0f} s"))
                line = "".join(bare_message(line) for line in last_lines(self.log, 1))
                line = line[: max(20, console.width - 40)]
                status.update(f"starting the server, {elapsed:.0f} s: [dim]{_plain(line)}[/dim]")
                if not console.is_terminal and elapsed - reported >= 15:
                    reported = elapsed
                    console.print(f"  {elapsed:3.0f} s: {_plain(line)}", highlight=False)
                time.sleep(0.5)
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
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                found: bytes = answer.read()
        except (urllib.error.URLError, TimeoutError) as error:
            message = f"the server does not answer {content} at /{path}: {error}"
            raise ServerError(self.with_log(message)) from error
        return found

    def check_alive(self) -> None:
        if self.process.poll() is not None:
            raise ServerError(
                self.with_log(f"the server ended with code {self.process.returncode}")
            )

    def stop(self) -> None:
        """Ends the group: politely, then by force; returns when no process of it is left."""
        for sign, patience in ((signal.SIGINT, 15), (signal.SIGTERM, 5), (signal.SIGKILL, 15)):
            if self._gone_after(sign, patience):
                return
        print(f"warning: processes of group {self.process.pid} are still ending", file=sys.stderr)

    def _gone_after(self, sign: signal.Signals, patience: float) -> bool:
        deadline = time.monotonic() + patience
        alive = self._signal_group(sign)
        while alive and time.monotonic() < deadline:
            time.sleep(0.1)
            alive = self._signal_group(0)
        return not alive

    def _signal_group(self, sign: int) -> bool:
        """Whether the group was still there to be signalled (signal 0 only looks)."""
        self.process.poll()  # reaps the leader: a zombie would count as alive
        try:
            os.killpg(self.process.pid, sign)
        except ProcessLookupError:
            return False
        return True

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def with_log(self, message: str) -> str:
        """``message``, the end of the log, and the first error in it."""
        found = first_error(self.log)
        cause = [f"First error in it: {found}"] if found else []
        return "\n".join([f"{message}. The end of {self.log}:", *last_lines(self.log, 20), *cause])


def _plain(line: str) -> str:
    """``line`` with rich's markup switched off."""
    return line.replace("[", r"\[")
