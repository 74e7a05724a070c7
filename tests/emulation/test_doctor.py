# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn doctor`` where vllm-ascend is installed, and no NPU."""

from __future__ import annotations

from ..cli.test_doctor import doctor


def test_no_npu_driver(monkeypatch):
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)  # which the emulation switches off
    code, found = doctor()
    assert code == 1
    assert set(found) == {"NPU driver"}
    (refused,) = found["NPU driver"]
    assert "no NPU driver" in refused["found"]
    assert "pip uninstall vllm-ascend" in refused["do"]  # for who wants the CPU's worker
