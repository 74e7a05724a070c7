# SPDX-License-Identifier: Apache-2.0
"""What people see of an examination."""

from __future__ import annotations

import re
from io import StringIO

from rich.console import Console

from ascend_gdn.cli.doctor.examination import checks_of
from ascend_gdn.cli.doctor.findings import Check, Examination, advice, ok, refused
from ascend_gdn.cli.doctor.report import show

from .set_ups import ROOT


def shown(examination: Examination) -> str:
    console = Console(width=60, record=True, file=StringIO())
    show(examination, console)
    return console.export_text()


def test_commands_are_in_one_line_each_to_be_copied():
    command = "pip install 'ascend-gdn[cpu]' " + "--and-so-on " * 10
    examination = Examination()
    examination.run(Check("a", lambda: [ok("a_long_name." * 9), advice("[x]", "[y]", command)]))
    said = shown(examination)
    assert f"\n1. {command}" in said
    assert "[x]" in said and "[y]" in said
    assert "…" not in said
    assert said.endswith("The worker would start.\n")


def test_what_was_not_checked_is_named():
    examination = Examination()
    examination.run(Check("a", lambda: [refused("old", "new", "pip")]))
    examination.run(Check("b", lambda: [ok("fine")], needs=("a",)))
    said = shown(examination)
    assert "Not checked before what was refused is mended: b." in said
    assert said.endswith("The worker would refuse.\n")


def test_the_documentation_names_all_checks():
    rows = (ROOT / "docs/operations.md").read_text().splitlines()
    (row,) = (row for row in rows if row.startswith("| `findings[].check` |"))
    checks = checks_of(["--model", "m"])
    assert re.findall(r"`([^`]+)`", row)[1:] == [check.name for check in checks]
    names = [check.name for check in checks]
    assert all(names.index(need) < names.index(each.name) for each in checks for need in each.needs)
