# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn verify``: what it makes of three engines, and a real run of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from ascend_gdn.cli.__main__ import app
from ascend_gdn.cli.verify_model import Comparison, as_markdown, write_report


def result(**changes: Any) -> dict[str, Any]:
    stats = {"steps": 9, "plans_built": 3, "prefill_steps": 2, "host_us": 100.0}
    return {
        "lengths": [2, 3],
        "tokens": [[5, 6], [7, 8]],
        "prompt_logprobs": [[-1.0], [-2.0, -3.0]],
        "seconds": 2.0,
        "stats": [stats],
        "machine": {"device": "cpu", "torch": "2.11.0"},
    } | changes


def test_the_same_is_right(tmp_path):
    comparison = Comparison(result(stats=[]), result(), result(seconds=1.0))
    report = comparison.as_dict()
    assert report["verdict"] == "right"
    assert report["prompts_with_the_same_tokens"] == 2
    assert report["metadata_us_a_prefill_step"] == [50.0]
    as_json, as_text = write_report(report, ["--model", "m"], tmp_path)
    assert json.loads(as_json.read_text()) == report
    assert "2 of 2 prompts were given the same tokens" in as_text.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gdn-verify.json", "gdn-verify.md"]


@pytest.mark.parametrize(
    ("stock", "verified", "ours", "fault"),
    [
        ({"prompt_logprobs": [[-1.5], [-2.0, -3.0]]}, {}, {}, "0.167 apart in the mean"),
        ({}, {"tokens": [[5, 6], [7, 9]]}, {}, "verify mode changed the tokens"),
        ({}, {"stats": [{}]}, {}, "the model has no GDN layers"),
    ],
)
def test_what_is_wrong_is_said(stock, verified, ours, fault):
    comparison = Comparison(result(**stock), result(**verified), result(**ours))
    (found,) = comparison.faults
    assert fault in found
    assert comparison.as_dict()["verdict"] == "wrong"


def test_other_tokens_alone_are_told_and_no_fault():
    report = Comparison(result(tokens=[[5, 6], [7, 9]]), result(), result()).as_dict()
    assert report["verdict"] == "right"
    assert "1 of 2 prompts were given the same tokens" in as_markdown(report, [])


def test_the_worker_is_not_for_the_operator_to_choose(tmp_path):
    given = ["verify", "m", "--report", str(tmp_path), "--worker-cls", "x"]
    found = CliRunner().invoke(app, given)
    assert found.exit_code == 2
    assert "both workers are run" in found.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags", [["--tensor-parallel-size", "1"], ["--tensor-parallel-size=1"], ["-tp", "1"]]
)
def test_flags_come_after_the_model(flags, tmp_path):
    found = CliRunner().invoke(app, ["verify", "--report", str(tmp_path / "r"), *flags, "m"])
    assert found.exit_code == 2
    assert "MODEL first" in found.output
    assert not (tmp_path / "r").exists()


@pytest.mark.engine
def test_an_engine_that_fails_ends_it_with_what_it_said(tmp_path):
    found = CliRunner().invoke(app, ["verify", str(tmp_path), "--report", str(tmp_path / "report")])
    assert found.exit_code == 1
    assert "failed: " in found.output
    assert "vllm.log" in found.output
    assert not list((tmp_path / "report").glob("gdn-verify*"))


@pytest.mark.engine
@pytest.mark.slow
def test_stock_and_ours_on_a_real_model(tmp_path, monkeypatch):
    import recall_task

    for name, value in (
        ("VLLM_CPU_KVCACHE_SPACE", "1"),
        ("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        ("TORCH_COMPILE_DISABLE", "1"),
    ):
        monkeypatch.setenv(name, value)
    model = recall_task.__file__.replace("recall_task.py", "recall_model")
    flags = ["--enforce-eager", "--mamba-ssm-cache-dtype", "float32", "--max-model-len", "4096"]
    found = CliRunner().invoke(app, ["verify", model, "--report", str(tmp_path), *flags])
    assert found.exit_code == 0, found.output
    report = json.loads((tmp_path / "gdn-verify.json").read_text())
    assert report["verdict"] == "right"
    assert report["prompts_with_the_same_tokens"] >= 10
    assert report["gdn_stats"][0]["plans_built"] == report["gdn_stats"][0]["prefill_steps"] > 0
