# SPDX-License-Identifier: Apache-2.0
"""What a log of vLLM's server says: how far its start is, what went wrong, and what helps."""

import re
import time
from collections.abc import Callable
from pathlib import Path

# What follows the line with these words (vLLM 0.23.0), in the order of a start.
_PHASES = (
    ("", "importing vLLM"),
    ("non-default args:", "reading the model's configuration"),
    ("Asynchronous scheduling is", "starting the engine's process"),
    ("Initializing a V1 LLM engine", "starting the worker's process"),
    ("Starting to load model", "loading the model"),
    ("Dynamo bytecode transform", "compiling the model"),
    ("Warming up model", "warming up"),
    ("GPU KV cache size", "warming up"),
    ("Capturing CUDA graphs", "capturing graphs"),
    ("init engine (profile", "starting the API server"),
)
_FAULT = (
    "To all appearances this is a fault of vLLM's or ours: please report it with the whole log, "
    "the command, and what lscpu says"
)
# The first that is found in the log, or in what is known of the end, tells what to do.
_HINTS = (
    (r"IncompatibleStackError|does not support this configuration", "Do what the error says"),
    (r"libnuma", "Install libnuma: apt-get install libnuma1"),
    (r"No space left on device|code 135|Bus error",
     "The disk or /dev/shm is full (df -h . /dev/shm); Docker gives more with --shm-size 1g"),
    (r"MemoryError|Cannot allocate memory|can't allocate memory|out of memory|OutOfMemory"
     r"|No available memory for the cache blocks|Free memory on device|code 137",
     "Memory ran out, to all appearances: end other programs, or ask for less (on CPU "
     "VLLM_CPU_KVCACHE_SPACE, in GiB; on a GPU --gpu-memory-utilization)"),
    (r"Address already in use", "Another program has the port: give another, or end that one"),
    (r"code 132|[Ii]llegal instruction",
     "vLLM's CPU build needs a CPU with AVX2: look for avx2 in /proc/cpuinfo; a virtual machine "
     "may hide it"),
    (r"GLIBC(XX)?_[\d.]+' not found", "This system is too old for these packages"),
    (r"No module named|cannot import name|undefined symbol",
     "The environment is not as it should be: make clean, then make setup"),
)  # fmt: skip


def last_lines(log: Path, count: int) -> list[str]:
    """The last ``count`` lines of ``log`` that are not empty."""
    lines = [line.rstrip() for line in log.read_text(errors="replace").splitlines()]
    return [line for line in lines if line][-count:]


def bare_message(line: str) -> str:
    """``line`` of vLLM's log without the process, level, time and place in front of it."""
    return re.sub(r"^(\([^)]*\) )?([A-Z]+ [\d-]+ [\d:]+ \[[^]]*\] )?", "", line)


def first_error(log: Path) -> str | None:
    """The first exception that ``log`` tells of: the cause, where later ones only pass it on.

    One without a message comes with the line of source that raised it.
    """
    before = ""
    for line in log.read_text(errors="replace").splitlines():
        message = bare_message(line)
        if re.match(r"[\w.]*(Error|Exception)(: |$)", message):
            return message if ": " in message else f"{message} at `{before.strip()}`"
        if message.strip(" ^~"):
            before = message
    return None


def hint(log: Path, end: str) -> str:
    """What to do about a server that failed; ``end`` is what else is known, such as its code."""
    lines = log.read_text(errors="replace").splitlines()
    known = "\n".join(
        [end, *(line for line in lines if re.search("rror|xception|nstruction", line))]
    )
    return next((advice for found, advice in _HINTS if re.search(found, known)), _FAULT)


class StartProgress:
    """The phases of the start of the server that writes ``log``, told to ``say`` as they end.

    With ``steady`` also what goes on, every 30 seconds.
    """

    def __init__(self, log: Path, say: Callable[[str], None], steady: bool) -> None:
        self._log, self._say, self._steady = log, say, steady
        self._phase = _PHASES[0][1]
        self._since = self._said = time.monotonic()

    def look(self) -> str:
        """What goes on, and for how long it has."""
        text, now = self._log.read_text(errors="replace"), time.monotonic()
        phase = [name for words, name in _PHASES if words in text][-1]
        if phase != self._phase:
            self.end()
            self._phase, self._since, self._said = phase, now, now
        going_on = f"{phase}, {now - self._since:.0f} s"
        if self._steady and now - self._said >= 30:
            self._said = now
            self._say(f"  still {going_on} so far")
        return going_on

    def end(self) -> None:
        """The last phase is over."""
        self._say(f"  {self._phase}: {time.monotonic() - self._since:.0f} s")
