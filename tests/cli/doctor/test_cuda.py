# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn doctor`` where vLLM finds a card."""

from __future__ import annotations

import pytest

from .set_ups import card, doctor, driver, model, refusals, vllm_for_cuda


def test_a_vllm_with_local_changes(tmp_path):
    vllm_for_cuda(tmp_path)
    card(tmp_path)
    driver(tmp_path)
    file = tmp_path / "vllm/v1/attention/backends/gdn_attn.py"
    text = file.read_text()
    file.unlink()  # the link
    file.write_text(text.replace("common_prefix_len: int,", "prefix_len: int,"))
    code, found = doctor(path=tmp_path)
    assert code == 1
    (refused,) = refusals(found)
    assert refused["check"] == "seams"
    assert "GDNAttentionMetadataBuilder.build" in refused["found"]
    assert "common_prefix_len" in refused["expected"]
    assert refused["do"] == "Install the released package, without local changes"


@pytest.fixture(scope="module")
def cuda(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda")
    vllm_for_cuda(folder)
    card(folder)
    driver(folder)
    return folder


def test_captures_that_end_early_and_kernels_of_vllm(cuda, tmp_path):
    given = '{"gdn_prefill_backend": "triton", "ascend_gdn": {"table_fill": "triton"}}'
    code, found = doctor(model(tmp_path), "--additional-config", given, path=cuda)
    assert code == 0
    assert "ascend_gdn.runner.GPUWorker" in found["platform"][0]["found"]
    assert [each["level"] for each in found["seams"]] == ["ok", "ok"]  # vLLM's and its kernels
    fill, kernels, captures = (each for each in found["model"] if each["level"] == "advice")
    assert "leave table_fill out" in fill["do"]
    assert kernels["do"] == "leave --gdn-prefill-backend out"
    assert captures["found"].startswith("captures end at 512: prompts of 513 to 2048 tokens")
    assert captures["do"].endswith(" 256 512 1024 2048")


def test_a_flashinfer_that_is_asked_for_and_not_there(cuda, tmp_path):
    flags = ["--gdn-prefill-backend", "flashinfer", "--dtype", "float32", "--enable-lora"]
    code, found = doctor(model(tmp_path), *flags, path=cuda)
    assert code == 1
    assert [each["do"] for each in found["model"]] == [
        "pass --dtype bfloat16",
        "pass --gdn-prefill-backend triton",
        "leave out --enable-lora",
    ]
    assert "no FlashInfer" in found["model"][1]["found"]
