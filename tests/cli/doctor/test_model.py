# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn doctor MODEL``: flags and models that the worker refuses, with nothing loaded."""

from __future__ import annotations

import json

import pytest
from transformers import LlamaConfig
from typer.testing import CliRunner

from ascend_gdn.cli.__main__ import app
from ascend_gdn.cli.doctor.model import captures_of
from upstream_calls import OLDEST

from .set_ups import By, by_check, model

MTP = '{"method": "qwen3_next_mtp", "num_speculative_tokens": 3}'


@pytest.fixture
def doctor(mocker):
    """In this process."""
    mocker.patch.dict("vllm.model_executor.custom_op.op_registry_oot", clear=True)

    def run(*arguments: str) -> tuple[int, By]:
        result = CliRunner().invoke(app, ["doctor", *arguments, "--json"])
        return result.exit_code, by_check(result.stdout, result.exit_code)

    return run


def test_a_sound_one(doctor, tmp_path):
    folder = model(tmp_path)
    code, found = doctor(folder)
    assert code == 0
    (ok,) = found["model"]
    assert (ok["level"], ok["found"]) == ("ok", f"{folder} with ascend_gdn.runner.CPUWorker")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]  # there are no weights


@pytest.mark.parametrize(
    ("flags", "got", "expected", "do"),
    [
        (["--enable-lora"], "LoRA", "none: GDN", "leave out --enable-lora"),
        (
            ["--tensor-parallel-size", "4"],
            "--tensor-parallel-size 4 for 2 key and 4 value heads", "a divisor of both",
            "pass one of 1, 2",
        ),
        (
            ["--additional-config", '{"ascend_gdn": {"verfy": true}}'],
            "ascend_gdn.verfy in --additional-config", "'verify'", "did you mean 'verify'?",
        ),
        (
            ["--additional-config", '{"ascend_gdn": {"table_fill": "gpu"}}'],
            "ascend_gdn.table_fill='gpu'", "'host' or 'triton'", "correct --additional-config",
        ),
        (["--worker-cls", "ascend_gdn.runner.Worker"], "has no worker 'Worker'", "", ""),
        (["--no-such-flag", "3"], "unrecognized arguments: --no-such-flag", "", ""),
        (["--max-model-len", "1000000"], "max_model_len", "", ""),
    ],
    ids=["LoRA", "TP that cuts heads", "a misspelt key", "a wrong value",
         "no such worker", "no such flag", "vLLM itself"],
)  # fmt: skip
def test_what_is_refused(doctor, tmp_path, flags, got, expected, do):
    code, found = doctor(model(tmp_path), *flags)
    assert code == 1
    (refused,) = found["model"]
    assert refused["level"] == "refused"
    assert got in refused["found"]
    assert expected in refused["expected"]
    assert do in refused["do"]


def test_prefix_caching_with_drafts(doctor, tmp_path):
    align = ["--enable-prefix-caching", "--mamba-cache-mode", "align", "--speculative-config", MTP]
    code, found = doctor(model(tmp_path), *align)
    assert code == OLDEST  # which alone needs a scheduler of ours
    if OLDEST:
        scheduler = "--scheduler-cls ascend_gdn.runner.align_scheduler.AlignedScheduler"
        assert scheduler in found["model"][0]["do"]


def test_a_worker_of_another_platform(doctor, tmp_path):
    code, found = doctor(model(tmp_path), "--worker-cls", "ascend_gdn.runner.GPUWorker")
    assert code == 1
    (refused,) = found["model"]
    assert ("on 'cpu'" if OLDEST else "on 'cuda', whose default is") in refused["found"]
    assert ("'cuda'" if OLDEST else "0.23.0") in refused["expected"]


def test_all_that_is_refused_is_said_at_once(doctor, tmp_path):
    code, found = doctor(
        model(tmp_path), "--enable-lora", "--tensor-parallel-size", "4", "--enable-expert-parallel"
    )
    assert code == 1
    said = " ".join(each["found"] for each in found["model"])
    assert len(found["model"]) == 3
    assert all(part in said for part in ("--enable-expert-parallel", "4 value heads", "LoRA"))


def test_a_model_without_gdn(doctor, tmp_path):
    config = LlamaConfig(
        num_attention_heads=2, vocab_size=64, hidden_size=64, intermediate_size=64,
        num_hidden_layers=1, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    code, found = doctor(str(tmp_path), "--skip-tokenizer-init")
    assert code == 0
    (advice,) = found["model"]
    assert (advice["level"], "no GDN layers" in advice["found"]) == ("advice", True)
    assert "leave --worker-cls out" in advice["do"]


def test_a_worker_that_is_not_ours(doctor, tmp_path):
    name = "vllm.v1.worker.cpu_worker.CPUWorker"
    code, found = doctor(model(tmp_path), "--worker-cls", name)
    assert code == 0
    assert found["model"][0]["do"] == "--worker-cls ascend_gdn.runner.CPUWorker"


def test_a_model_that_is_not_there(doctor, tmp_path):
    code, found = doctor(str(tmp_path / "nothing"))
    assert code == 1
    assert found["model"][0]["level"] == "refused"


def test_verify_mode_is_told_what_it_costs(doctor, tmp_path):
    given = json.dumps({"ascend_gdn": {"verify": True}})
    _, found = doctor(model(tmp_path), "--additional-config", given)
    assert found["model"][1]["level"] == "advice"


def test_flags_need_a_model():
    result = CliRunner().invoke(app, ["doctor", "--enable-lora"])
    assert result.exit_code == 2
    assert "MODEL first" in result.output


@pytest.mark.parametrize(
    ("sizes", "tokens", "advised"),
    [
        ([1, 2, 512], 8192, "512 1024 2048"),
        ([1, 2, 256], 1500, "512 1024 1500"),
        ([1, 2048], 8192, ""),
        ([1, 512], 512, ""),
        ([], 8192, ""),
    ],
)
def test_captures_that_end_early(sizes, tokens, advised):
    found = list(captures_of(sizes, tokens))
    assert bool(found) == bool(advised)
    assert all(each.do.endswith(advised) for each in found)
