# SPDX-License-Identifier: Apache-2.0
"""What a prefill step's metadata costs the device: copies, kernels, waits, by torch's profiler."""

from __future__ import annotations

from .device import CUDA, require_cuda

require_cuda()

import pytest

from both_sides.step_traffic import Traffic, traffic_of_a_step
from both_sides.workloads import WORKLOADS, OursOnCuda, Theirs


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
@pytest.mark.parametrize(("fill", "kernels"), [("host", 0), ("triton", 1)])
def test_one_pinned_copy_and_no_wait(workload, fill, kernels):
    ours = traffic_of_a_step(OursOnCuda(workload, CUDA, fill))
    assert ours == Traffic(pinned_copies=1, kernels=kernels)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_the_count_sees_what_vllm_does(workload):
    theirs = traffic_of_a_step(Theirs(workload, CUDA))
    assert theirs.pageable_copies + theirs.pinned_copies >= 12
    assert theirs.kernels >= 3
