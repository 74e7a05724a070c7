# SPDX-License-Identifier: Apache-2.0
"""What the backend for CUDA builds, on CPU tensors, is what vLLM's own builder does."""

from __future__ import annotations

import pytest

from both_sides.workloads import DECODE_WORKLOADS, WORKLOADS, OursOnCuda

from .test_builder import assert_same


@pytest.mark.parametrize("workload", WORKLOADS + DECODE_WORKLOADS, ids=lambda each: each.name)
def test_equals_vllm_on_the_benchmark_workloads(workload):
    assert_same(workload, OursOnCuda)
