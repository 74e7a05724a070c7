# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn explain``: what it shows of a step, from words and from a record."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from ascend_gdn.attention.table_layout import TableLayout
from ascend_gdn.cli.__main__ import app
from ascend_gdn.cli.explain import plan
from ascend_gdn.cli.requests import record_of

LIMITS = 3, 32, 256, 8192


def explain(*arguments: str):
    return CliRunner().invoke(app, ["explain", *arguments], env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["512"], ["prefills", "cu_seqlens", "[0, 512, 512", "comes to the same tables"]),
        (["16x512", "--groups", "48"], ["16 requests decode or prefill", "48 KV cache groups"]),
        (["2x1@700", "1"], ["decodes", "prefills", "[[0, 0], [256, 0]"]),
        (["4@700+3/2", "100"], ["verifies drafts", "1 verify drafts", "num_accepted_tokens"]),
        (["3x1@9"], ["3 requests decode or prefill, 0 verify drafts"]),
        (["20x64"], ["4 more"]),
    ],
)
def test_a_step_in_words(words, shown):
    found = explain(*words)
    assert found.exit_code == 0, found.output
    for text in shown:
        assert text in found.output


def test_a_record_is_planned_again(tmp_path):
    record = record_of(["4@700+3/2", "2x1@9", "100"], *LIMITS)
    path = tmp_path / "step.json"
    path.write_text(record.to_json())
    found = explain("--replay", str(path))
    assert found.exit_code == 0, found.output
    assert found.output == explain("4@700+3/2", "2x1@9", "100").output


def test_a_record_of_a_step_without_prefills():
    layout = TableLayout(256, 8192, 3, 128).without_prefills(256)
    found = record_of(["5x1@9"], *LIMITS)
    slot, split, _ = plan(type(found)(**vars(found) | {"layout": layout}))
    assert split.num_decodes == 5
    assert slot.layout == layout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give requests, or --replay FILE"),
        (["512", "--replay", "x"], "give requests, or --replay FILE"),
        (["x512"], "got 'x512', expected [COUNTx]TOKENS"),
        (["4+2"], "4 tokens with 2 drafts, expected one token more"),
        (["300x1"], "got 300 requests and 300 tokens, expected at most 256 and 8192; raise --max"),
        (["--replay", "missing.json"], "No such file"),
    ],
)
def test_what_cannot_be_planned(arguments, message):
    found = explain(*arguments)
    assert found.exit_code == 2
    assert message in " ".join(found.output.replace("│", " ").split())


def test_a_file_that_is_no_record(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    found = explain("--replay", str(tmp_path / "x.json"))
    assert found.exit_code == 2
    assert "expected the JSON of a step" in " ".join(found.output.replace("│", " ").split())
