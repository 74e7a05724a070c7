# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn doctor`` where vllm-ascend is installed, and no NPU."""

from __future__ import annotations

from ..cli.test_doctor import doctor


def test_no_npu_driver():
    code, found = doctor()
    assert code == 1
    assert found["stack"][0]["level"] == "ok"
    assert "vllm-ascend 0.23.0" in found["stack"][0]["found"]
    (refused,) = found["platform"]
    assert "no NPU driver" in refused["found"]
    assert "pip uninstall vllm-ascend" in refused["do"]  # for who wants the CPU's worker
