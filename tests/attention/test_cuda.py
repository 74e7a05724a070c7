# SPDX-License-Identifier: Apache-2.0
"""The builder for CUDA, on CPU tensors, against vLLM's own: what its kernels and forward take."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_gdn.attention.cuda import CONV_BLOCK
from workloads import DECODE_WORKLOADS, WORKLOADS, OursOnCuda, Theirs, Workload

from .test_builder import assert_same


def assert_same_convolution(workload: Workload) -> None:
    theirs, ours = Theirs(workload), OursOnCuda(workload)
    for slot in ours.pools.prefill._slots:
        slot.host_buffer.fill_(-7_777_777)
    expected = theirs.step(theirs.batch.common_metadata())
    found = ours.step(ours.batch.common_metadata())
    for want, got in zip(expected, found, strict=True):
        programs = want.nums_dict[CONV_BLOCK]["tot"]
        assert got.nums_dict.keys() == want.nums_dict.keys() == {CONV_BLOCK}
        block = got.nums_dict[CONV_BLOCK]
        assert block.keys() | {"nums"} == want.nums_dict[CONV_BLOCK].keys()
        assert block["tot"] == block["mlist_len"] == programs
        for name in ("batch_ptr", "token_chunk_offset_ptr"):
            table = getattr(got, name)
            assert table is block[name]
            assert table.tolist() == getattr(want, name)[:programs].tolist(), name


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
        assert metadata.nums_dict is metadata.batch_ptr is metadata.token_chunk_offset_ptr is None


def test_vllms_own_forward_can_copy_by_the_token_indices():
    # With "flashinfer" it is the layer's forward; its index_copy_ takes int64 alone.
    workload = Workload("MTP", [4, 4, 70, 30], [9, 8, 64, 0], [3, 3, -1, -1], [2, 4, 1, 1])
    theirs, ours = Theirs(workload), OursOnCuda(workload)
    for builder in ours.builders:
        builder.gdn_prefill_backend = "flashinfer"  # on CPU vLLM resolves all to "triton"
    expected = theirs.step(theirs.batch.common_metadata())
    found = ours.step(ours.batch.common_metadata())
    for want, got in zip(expected, found, strict=True):
        torch.testing.assert_close(got.spec_token_indx, want.spec_token_indx)
        torch.testing.assert_close(got.non_spec_token_indx, want.non_spec_token_indx)
