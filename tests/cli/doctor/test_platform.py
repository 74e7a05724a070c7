# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn doctor`` and what vLLM finds: cards, Triton, its own functions, plug-ins."""

from __future__ import annotations

import pytest

from ascend_gdn.cli.doctor.platform import cpu_with

from .set_ups import (
    card,
    distribution,
    doctor,
    module,
    refusals,
    site_packages,
    vllm_for_cuda,
)

LAYER = "vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn"
RIVAL = f"""
def register():
    from {LAYER} import QwenGatedDeltaNetAttention as Layer

    @Layer.register_oot
    class QwenGatedDeltaNetAttention(Layer):
        pass
"""


def test_vllm_for_cuda_without_a_card(tmp_path):
    vllm_for_cuda(tmp_path)
    code, found = doctor(path=tmp_path)
    assert code == 1
    (refused,) = refusals(found)
    assert (refused["check"], refused["expected"]) == ("platform", "a card that nvidia-smi lists")
    assert "install NVIDIA's driver" in refused["do"]


def test_another_platform(tmp_path):
    platform = "from vllm.platforms.cpu import CpuPlatform\n\n\nclass Other(CpuPlatform):\n"
    module(tmp_path, "other.platform", platform + "    device_type = 'other'\n")
    module(tmp_path, "other.plug_in", "def register():\n    return 'other.platform.Other'\n")
    entry_points = "[vllm.platform_plugins]\nother = other.plug_in:register\n"
    distribution(tmp_path, "other", "1.0", entry_points)
    code, found = doctor(path=tmp_path)
    assert code == 1
    assert refusals(found)[0]["found"] == "vLLM on 'other'"


def test_a_triton_without_a_driver(tmp_path):
    vllm_for_cuda(tmp_path)
    card(tmp_path)
    code, found = doctor(path=tmp_path)
    assert code == 1
    refused = next(each for each in refusals(found) if each["check"] == "Triton")
    assert "finds no driver" in refused["found"]
    assert "nvidia-smi" in refused["do"]
    assert found["seams"] == []


def test_no_triton(tmp_path):
    folder = tmp_path / "all"
    site_packages(folder, "vllm", "triton")
    vllm_for_cuda(folder)
    card(folder)
    code, found = doctor(path=folder, alone=True)
    assert code == 1
    refused = next(each for each in refusals(found) if each["check"] == "Triton")
    assert refused["found"] == "no Triton"
    assert refused["do"].startswith("pip install triton")


def test_a_plug_in_that_replaces_the_layer(tmp_path):
    module(tmp_path, "other.plug_in", RIVAL)
    entry_points = "[vllm.general_plugins]\nother = other.plug_in:register\n"
    distribution(tmp_path, "other-plugin", "1.0", entry_points)
    code, found = doctor(path=tmp_path)
    assert code == 1
    (refused,) = refusals(found)
    assert "other.plug_in" in refused["found"]
    assert "VLLM_PLUGINS" in refused["do"]
    assert doctor(path=tmp_path, VLLM_PLUGINS="another")[0] == 0


def test_another_flashinfer(tmp_path):
    distribution(tmp_path, "flashinfer-python", "0.5.0")
    code, found = doctor(path=tmp_path)
    assert code == 0
    (advice,) = found["FlashInfer"]
    assert (advice["level"], advice["found"]) == ("advice", "FlashInfer 0.5.0")
    assert "pip install flashinfer-python==0.6.12" in advice["do"]


@pytest.mark.parametrize(
    ("avx2", "avx512", "level", "do"),
    [
        (False, False, "refused", "take another machine"),
        (True, False, "advice", "--dtype float32"),
        (True, True, "ok", ""),
    ],
)
def test_instruction_sets(avx2, avx512, level, do):
    (finding,) = cpu_with(avx2=avx2, avx512=avx512, amx=False)
    assert (finding.level, finding.do) == (level, do)
