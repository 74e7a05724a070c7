# SPDX-License-Identifier: Apache-2.0
"""How checks are run, and what is made of what they raise."""

from __future__ import annotations

import pytest

from ascend_gdn.cli.doctor.findings import Check, Examination, advice, as_finding, ok, refused
from ascend_gdn.runner.checks.errors import UnsupportedError


def raising(error: BaseException):
    def check():
        yield ok("so far")
        raise error

    return check


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (OSError("no such\nfile"), "OSError: no such file"),
        (AssertionError(), "AssertionError"),
        (SystemExit(2), "SystemExit: 2"),
    ],
)
def test_what_is_raised_is_a_finding(error, found):
    examination = Examination()
    examination.run(Check("a", raising(error)))
    assert examination.findings == [("a", ok("so far")), ("a", refused(found))]
    assert not examination.starts


def test_each_refusal_is_a_finding():
    examination = Examination()
    error = UnsupportedError("got A, expected B; pass --b", "got C; leave it out")
    examination.run(Check("a", raising(error)))
    assert [finding for _, finding in examination.findings] == [
        ok("so far"), refused("A", "B", "pass --b"), refused("C", "", "leave it out"),
    ]  # fmt: skip


def test_what_needs_a_refused_check_is_not_run():
    examination = Examination()
    for check in (
        Check("a", raising(OSError())),
        Check("b", raising(OSError()), needs=("a",)),
        Check("c", raising(OSError()), needs=("b",)),
        Check("d", lambda: [advice("x")]),
        Check("e", lambda: [ok("x")], needs=("d",)),
    ):
        examination.run(check)
    assert examination.not_checked == ["b", "c"]
    assert {name for name, _ in examination.findings} == {"a", "d", "e"}


@pytest.mark.parametrize(
    ("message", "found", "expected", "do"),
    [
        (
            "ascend-gdn: got vLLM 0.22.0, expected 0.23.0. Install the pinned version: pip x.",
            "vLLM 0.22.0", "0.23.0", "Install the pinned version: pip x",
        ),
        (
            "got a=1 with b; c, expected d: e, expected or not; pass --x",
            "a=1 with b; c", "d: e, expected or not", "pass --x",
        ),
        ("ascend-gdn: something else.", "something else", "", ""),
    ],
)  # fmt: skip
def test_messages_of_the_checks(message, found, expected, do):
    assert as_finding(message) == refused(found, expected, do)
