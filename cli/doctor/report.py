# SPDX-License-Identifier: Apache-2.0
"""What an examination found: a table for people, JSON for machines."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ascend_gdn.cli.doctor.findings import Examination

SCHEMA = 1
"""Of the JSON (docs/operations.md): goes up if a name or a meaning changes."""
_STYLES = {"ok": "green", "advice": "yellow", "refused": "bold red"}


def as_json(examination: Examination) -> str:
    report = {
        "schema": SCHEMA,
        "starts": examination.starts,
        "findings": [{"check": name, **asdict(finding)} for name, finding in examination.findings],
        "not_checked": examination.not_checked,
    }
    return json.dumps(report, indent=2)


def show(examination: Examination, console: Console) -> None:
    table = Table("check", "")
    for header in ("found", "expected", "to do"):
        table.add_column(header, overflow="fold")  # a name that is cut off is of no use
    to_do: list[Text] = []
    for name, finding in examination.findings:
        if finding.do:
            to_do.append(Text(f"{len(to_do) + 1}. ").append(finding.do))
        level = Text(finding.level, _STYLES[finding.level])
        mark = str(len(to_do)) if finding.do else ""
        table.add_row(name, level, Text(finding.found), Text(finding.expected), mark)
    console.print(table)
    if examination.not_checked:
        left = ", ".join(examination.not_checked)
        console.print(f"Not checked before what was refused is mended: {left}.")
    for line in to_do:  # outside of the table, so that a long command can be copied
        console.print(line, soft_wrap=True)
    console.print("The worker would start." if examination.starts else "The worker would refuse.")
