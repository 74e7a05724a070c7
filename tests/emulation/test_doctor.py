# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn doctor`` where vllm-ascend is installed, and no NPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ascend_gdn.runner.versions import STACKS, check_version

from ..cli.doctor.set_ups import (
    ROOT,
    by_check,
    distribution,
    doctor,
    model,
    module,
    refusals,
    users_environment,
)
from .runs import OUR_WORKER

STACK = check_version()
NO_DRIVER = """
def _autoload():
    pass

raise ImportError("libascend_hal.so: cannot open shared object file: No such file or directory")
"""
NO_CARD = """
def _autoload():
    pass

class npu:
    @staticmethod
    def device_count():
        return 0
"""


def torch_npu(folder: Path, text: str) -> None:
    module(folder, "torch_npu.x")
    (folder / "torch_npu/__init__.py").write_text(text)
    entry_points = "[torch.backends]\ntorch_npu = torch_npu:_autoload\n"
    distribution(folder, "torch-npu", "2.10.0", entry_points)


def test_no_torch_npu():
    code, found = doctor()
    assert code == 1
    (refused,) = refusals(found)
    assert (refused["check"], refused["found"]) == ("NPU", "vllm-ascend without torch-npu")
    assert refused["do"].startswith("pip install torch-npu==2.10.0")  # as vllm-ascend asks for
    assert refused["do"].endswith("without an NPU: pip uninstall vllm-ascend")
    assert found["vLLM-Ascend"][0]["level"] == "ok"
    assert found["platform"] == []


@pytest.mark.parametrize(
    ("text", "got", "do"),
    [
        (NO_DRIVER, "torch-npu does not load: libascend_hal.so", "set_env.sh"),
        (NO_CARD, "torch-npu finds no NPU", "driver and firmware"),
    ],
    ids=["no driver", "no card"],
)
def test_no_npu(tmp_path, text, got, do):
    torch_npu(tmp_path, text)
    code, found = doctor(path=tmp_path)
    assert code == 1
    (refused,) = refusals(found)
    assert (refused["check"], got in refused["found"], do in refused["do"]) == ("NPU", True, True)


def test_vllm_ascend_beside_the_worker_for_cpu(tmp_path):
    code, found = doctor(model(tmp_path), "--worker-cls", "ascend_gdn.runner.CPUWorker")
    assert code == 1
    refused = refusals(found)[0]
    assert (refused["check"], refused["found"]) == (
        "worker", f"vllm-ascend {STACK.vllm_ascend[0]} beside CPUWorker",
    )  # fmt: skip
    assert refused["do"].startswith("pip uninstall vllm-ascend")
    assert found["model"] == []


def test_vllm_ascend_that_is_switched_off(tmp_path):
    # A length that one step takes: on a CPU with AMX prompts are not chunked.
    flags = ["--worker-cls", "ascend_gdn.runner.CPUWorker", "--max-model-len", "1024"]
    code, found = doctor(model(tmp_path), *flags, VLLM_PLUGINS="none")
    assert (code, refusals(found)) == (0, [])
    assert found["platform"][0]["found"].startswith("cpu")


EMULATED = """
import sys
from contextlib import redirect_stdout
from emulated_npu.install import install

with redirect_stdout(sys.stderr):  # it imports vLLM, which says so
    install()
from ascend_gdn.cli.__main__ import main

main()
"""


def test_what_the_worker_for_an_npu_refuses(tmp_path):
    given = json.dumps({"xlite_graph_config": {"enabled": True}, "enable_cpu_binding": False})
    flags = ["--enable-lora", "--additional-config", given, "--worker-cls", OUR_WORKER]
    process = subprocess.run(
        [sys.executable, "-P", "-c", EMULATED, "doctor", model(tmp_path), *flags, "--json"],
        env=users_environment() | {"PYTHONPATH": str(ROOT / "tests/harness")},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    found = by_check(process.stdout, process.returncode)
    assert process.returncode == 1
    assert len(found["model"]) == 2, found["model"]
    xlite, lora = found["model"]
    assert "needs vLLM-Ascend's Xlite worker" in xlite["expected"] + xlite["found"]
    assert lora["do"] == "leave out --enable-lora"


def test_another_vllm_ascend(tmp_path):
    entry_points = "[vllm.platform_plugins]\nascend = vllm_ascend:register\n"
    distribution(tmp_path, "vllm-ascend", "0.18.0", entry_points)
    code, found = doctor(path=tmp_path)
    assert code == 1
    (refused,) = (each for each in refusals(found) if each["check"] == "vLLM-Ascend")
    stacks = [f"{stack.vllm_ascend[0]} over vLLM {stack.vllm}" for stack in STACKS]
    assert refused["expected"] == " or ".join(stacks)
    assert f"pip install 'vllm-ascend=={STACK.vllm_ascend[0]}'" in refused["do"]
