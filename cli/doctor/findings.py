# SPDX-License-Identifier: Apache-2.0
"""What a check finds, and how checks are run: one that raises is a finding too."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing that a check found."""

    level: Literal["ok", "advice", "refused"]
    """``refused``: the worker does not start. ``advice``: it starts, and would do better."""
    found: str
    expected: str = ""
    do: str = ""
    """The command, or the flag to change."""


def ok(found: str) -> Finding:
    return Finding("ok", found)


def advice(found: str, expected: str = "", do: str = "") -> Finding:
    return Finding("advice", found, expected, do)


def refused(found: str, expected: str = "", do: str = "") -> Finding:
    return Finding("refused", found, expected, do)


@dataclass(frozen=True)
class Check:
    """A function that yields what it finds, run unless one of those that it needs refused."""

    name: str
    run: Callable[[], Iterable[Finding]]
    needs: tuple[str, ...] = ()


@dataclass
class Examination:
    """What all checks found."""

    findings: list[tuple[str, Finding]] = field(default_factory=list)
    """By the name of the check, in the order of the checks."""
    not_checked: list[str] = field(default_factory=list)
    """Checks left out because one that they need refused."""

    @property
    def starts(self) -> bool:
        return all(finding.level != "refused" for _, finding in self.findings)

    def run(self, check: Check) -> None:
        stopped = {name for name, finding in self.findings if finding.level == "refused"}
        if stopped.union(self.not_checked).intersection(check.needs):
            self.not_checked.append(check.name)
            return
        try:
            for finding in check.run():
                self.findings.append((check.name, finding))
        except (Exception, SystemExit) as error:  # whatever it is, the worker would meet it
            self.findings += [(check.name, finding) for finding in raised(error)]


def raised(error: BaseException) -> Iterator[Finding]:
    """What an exception of ours, of vLLM's or of Python's says, as findings."""
    said = " ".join(str(error).split())
    if not said.startswith("ascend-gdn"):
        yield refused(f"{type(error).__name__}: {said}" if said else type(error).__name__)
        return
    from ascend_gdn.runner.checks.errors import UnsupportedError

    messages = error.refusals if isinstance(error, UnsupportedError) else (said,)
    for message in messages:
        yield as_finding(message)


_MESSAGE = re.compile(r"(?:got )?(?P<found>.+?)(?:, expected (?P<expected>.+))?")


def as_finding(message: str) -> Finding:
    """A message of ``runner/checks``: "got …, expected …; what to do", or ". What to do"."""
    text = message.removeprefix("ascend-gdn: ").rstrip(".")
    what, *command = re.split(r"\. (?=[A-Z])", text, maxsplit=1)
    if not command and "; " in what:
        what, _, last = what.rpartition("; ")
        command = [last]
    parts = _MESSAGE.fullmatch(what)
    assert parts is not None  # any text matches
    return refused(parts["found"], parts["expected"] or "", "".join(command))
