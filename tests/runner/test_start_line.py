# SPDX-License-Identifier: Apache-2.0
"""The line that says what is active."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import vllm

from ascend_gdn.runner import start_line as module
from ascend_gdn.runner.metrics import VARIABLE
from ascend_gdn.runner.start_line import start_line
from both_sides.workloads import Ours, Workload


def config(mode: str = "NONE") -> SimpleNamespace:
    graphs = SimpleNamespace(
        cudagraph_mode=SimpleNamespace(name=mode), max_cudagraph_capture_size=512
    )
    return SimpleNamespace(compilation_config=graphs)


@pytest.fixture
def steps():
    return Ours(Workload("any", [1], [1])).steps


def test_everything_is_named(steps, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(module, "version", lambda name: "1.2.3")
    assert start_line(config(), steps, "cpu", "PyTorch", published=False) == (
        f"ascend-gdn 1.2.3, vLLM {vllm.__version__}, cpu: prefills by PyTorch; one metadata plan a "
        "step for 3 KV cache groups, up to 256 sequences and 8192 tokens; tables filled by the "
        f"host; pools of {steps.stats.pool_bytes} bytes; no graphs; verify mode off; metrics not "
        f"published, no {VARIABLE}"
    )


def test_what_can_be_otherwise(steps, monkeypatch, mocker):
    monkeypatch.setenv(VARIABLE, "/somewhere")
    steps.device_fill = steps.verifier = mocker.Mock()
    said = start_line(config("FULL_AND_PIECEWISE"), steps, "cuda", "triton", published=True)
    assert ", cuda: prefills by triton; " in said
    assert "tables filled by Triton; " in said
    assert "; FULL_AND_PIECEWISE graphs to 512 tokens; verify mode on; metrics published" in said


def test_metrics_that_could_not_be_published(steps, monkeypatch):
    monkeypatch.setenv(VARIABLE, "/somewhere")
    said = start_line(config(), steps, "cpu", "PyTorch", published=False)
    assert said.endswith("; metrics not published")


def test_folders_on_the_path_have_no_version(steps, mocker):
    mocker.patch.object(module, "version", side_effect=module.PackageNotFoundError)
    said = start_line(config(), steps, "cpu", "PyTorch", published=False)
    assert said.startswith("ascend-gdn (not installed), v")
