# SPDX-License-Identifier: Apache-2.0
"""The builder for CUDA, on CPU tensors: the convolution's tables against vLLM's own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_gdn.attention.cuda import CONV_BLOCK
from both_sides.workloads import DECODE_WORKLOADS, WORKLOADS, OursOnCuda, Theirs, Workload

from .test_builder import assert_same


def assert_same_convolution(workload: Workload) -> None:
    theirs, ours = Theirs(workload), OursOnCuda(workload)
    for slot in ours.steps.pool._slots:
        slot.host_buffer.fill_(-7_777_777)
    expected = theirs.step(theirs.batch.common_metadata())
    found = ours.step(ours.batch.common_metadata())
    for want, got in zip(expected, found, strict=True):
        programs = want.nums_dict[CONV_BLOCK]["tot"]
        for name in ("batch_ptr", "token_chunk_offset_ptr"):
            assert getattr(got, name).tolist() == getattr(want, name)[:programs].tolist(), name


requests = st.tuples(st.integers(1, 300), st.integers(0, 400))


@settings(max_examples=60, deadline=None)
@given(
    decodes=st.lists(st.integers(1, 500), max_size=20),
    prefills=st.lists(requests, min_size=1, max_size=12),
    first=st.integers(2, 3000),
)
def test_equals_vllm_on_random_batches(decodes, prefills, first):
    # vLLM's split takes one-token prompts for decodes, ours those before the first other prefill.
    prefills = [(first, 0), *prefills]
    workload = Workload(
        "random",
        [1] * len(decodes) + [length for length, _ in prefills],
        decodes + [context for _, context in prefills],
    )
    assert_same_convolution(workload)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_equals_vllm_on_the_benchmark_workloads(workload):
    assert_same_convolution(workload)
    assert_same(workload, OursOnCuda)


@pytest.mark.parametrize("workload", DECODE_WORKLOADS, ids=lambda workload: workload.name)
def test_steps_without_prefills_have_no_convolution_tables(workload):
    assert_same(workload, OursOnCuda)
    ours = OursOnCuda(workload)
    for metadata in ours.step(ours.batch.common_metadata()):
        assert metadata.batch_ptr is metadata.token_chunk_offset_ptr is None
