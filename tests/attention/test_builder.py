# SPDX-License-Identifier: Apache-2.0
"""Our builder against vLLM's own builder class, on batches as vLLM's runner makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_gdn.attention.builder import StepGDNAttentionMetadata, StepGDNAttentionMetadataBuilder
from ascend_gdn.attention.metadata import GDNContractError
from workloads import WORKLOADS, Ours, Theirs, Workload, builder_arguments

from .reference import reference_tables

SHARED_FIELDS = (
    "num_prefills",
    "num_prefill_tokens",
    "num_decodes",
    "num_decode_tokens",
    "num_spec_decodes",
    "num_spec_decode_tokens",
    "num_actual_tokens",
    "has_initial_state",
    "spec_query_start_loc",
    "non_spec_query_start_loc",
    "spec_state_indices_tensor",
    "non_spec_state_indices_tensor",
    "spec_sequence_masks",
    "spec_token_indx",
    "non_spec_token_indx",
    "num_accepted_tokens",
    "chunk_indices",
    "chunk_offsets",
    "prefill_query_start_loc",
    "prefill_state_indices",
    "prefill_has_initial_state",
)


def assert_same(workload: Workload) -> None:
    theirs, ours = Theirs(workload), Ours(workload)
    expected = theirs.step(theirs.batch.common_metadata())
    found = ours.step(ours.batch.common_metadata())
    for group, (want, got) in enumerate(zip(expected, found, strict=True)):
        for name in SHARED_FIELDS:
            left, right = getattr(want, name), getattr(got, name)
            if isinstance(left, torch.Tensor):
                assert right is not None, f"group {group}: {name} is None"
                assert left.tolist() == right.tolist(), f"group {group}: {name}"
            else:
                assert left == right, f"group {group}: {name}"


requests = st.tuples(st.integers(2, 300), st.integers(0, 400))


@settings(max_examples=100, deadline=None)
@given(
    decodes=st.lists(st.integers(1, 500), max_size=20),
    prefills=st.lists(requests, max_size=12),
)
def test_equals_vllm_on_random_batches(decodes, prefills):
    if decodes or prefills:
        assert_same(
            Workload(
                "random",
                [1] * len(decodes) + [length for length, _ in prefills],
                decodes + [context for _, context in prefills],
            )
        )


@settings(max_examples=100, deadline=None)
@given(
    spec=st.lists(st.integers(1, 500), min_size=1, max_size=12),
    decodes=st.lists(st.integers(1, 500), max_size=5),
    prefills=st.lists(requests, max_size=8),
    num_spec=st.integers(1, 4),
)
def test_equals_vllm_beside_speculative_requests(spec, decodes, prefills, num_spec):
    others = len(decodes) + len(prefills)
    assert_same(
        Workload(
            "random",
            [num_spec + 1] * len(spec) + [1] * len(decodes) + [length for length, _ in prefills],
            spec + decodes + [context for _, context in prefills],
            [num_spec] * len(spec) + [-1] * others,
        )
    )


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_equals_vllm_on_the_benchmark_workloads(workload):
    assert_same(workload)


def test_groups_share_all_tables_but_not_state_indices():
    ours = Ours(WORKLOADS[5])
    metadata = ours.step(ours.batch.common_metadata())
    chunks = {id(group.non_spec_prefill_fallback_meta.chunk) for group in metadata}
    assert len(chunks) == 1
    for group, table in zip(metadata, ours.batch.block_tables, strict=True):
        requests = len(ours.batch.workload.lengths)
        assert group.non_spec_state_indices_tensor.tolist() == table[:requests, 0].tolist()
        conv = group.non_spec_prefill_fallback_meta.causal_conv1d
        assert conv.cache_indices_cpu.tolist() == group.prefill_state_indices.tolist()
        assert conv.has_initial_state_cpu.tolist() == group.prefill_has_initial_state.tolist()
        assert conv.query_start_loc_cpu.tolist() == group.prefill_query_start_loc.tolist()


def test_all_six_tables_of_a_mixed_step():
    workload = Workload("mixed", [1, 1, 70, 1300], [9, 8, 64, 0])
    ours = Ours(workload)
    chunk = ours.step(ours.batch.common_metadata())[2].non_spec_prefill_fallback_meta.chunk
    for name, values in reference_tables([70, 1300], 128).items():
        assert getattr(chunk, name).tolist() == values, name


# Where ours differs from vLLM's on purpose.


def first_group(workload: Workload) -> StepGDNAttentionMetadata:
    ours = Ours(workload)
    metadata = ours.step(ours.batch.common_metadata())[0]
    assert isinstance(metadata, StepGDNAttentionMetadata)
    return metadata


def test_zero_length_in_the_middle_is_one_index_space():
    # query_start_loc [0, 128, 128, 256]: vLLM's table numbers the sequences 0 and 1, while its
    # cu_seqlens, state indices and flags have three.
    metadata = first_group(Workload("zero in the middle", [128, 0, 128], [0, 5, 64]))
    assert metadata.prefill_query_start_loc.tolist() == [0, 128, 256]
    assert metadata.chunk_indices.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert metadata.prefill_state_indices.tolist() == [1, 3]
    assert metadata.prefill_has_initial_state.tolist() == [False, True]


def test_one_token_prompt_is_a_prefill():
    # vLLM sends it to the decode kernel, which reads whatever the state block held before.
    metadata = first_group(Workload("one token", [1], [0]))
    assert (metadata.num_prefills, metadata.num_decodes) == (1, 0)
    assert metadata.prefill_has_initial_state.tolist() == [False]


def test_padded_rows_are_dropped():
    metadata = first_group(Workload("padded", [1, 80, 0, 0], [7, 0, 0, 0]))
    assert (metadata.num_decodes, metadata.num_prefills) == (1, 1)
    assert metadata.non_spec_query_start_loc.tolist() == [0, 1, 81]


def test_a_step_leaves_nothing_of_the_one_before():
    ours = Ours(WORKLOADS[1])
    for slot in ours.pool._slots:
        slot.host_buffer.fill_(-7_777_777)
    for metadata in ours.step(ours.batch.common_metadata()):
        for name in SHARED_FIELDS:
            value = getattr(metadata, name)
            assert not isinstance(value, torch.Tensor) or not (value == -7_777_777).any(), name


# How it refuses to work.


def test_unbound_builder_raises():
    builder = StepGDNAttentionMetadataBuilder(**builder_arguments(WORKLOADS[0]))
    with pytest.raises(GDNContractError, match="bound to no runner"):
        builder.build(0, Ours(WORKLOADS[0]).batch.common_metadata()[0])


def test_build_outside_a_step_raises():
    ours = Ours(WORKLOADS[0])
    with pytest.raises(GDNContractError, match="no open step"):
        ours.builders[0].build(0, ours.batch.common_metadata()[0])


@pytest.mark.parametrize(
    "lengths", [[1] * 256 + [2] * 1, [8193]], ids=["too many sequences", "too many tokens"]
)
def test_batch_over_capacity_raises_with_the_numbers(lengths):
    small = Ours(Workload("small", [5], [0]))
    big = Ours.__new__(Ours)  # only its batch is needed
    big.batch = type(small.batch)(Workload("big", lengths, np.ones(len(lengths), int).tolist()))
    message = (
        f"{len(lengths)} sequences and {sum(lengths)} tokens.*256 sequences and 8192 tokens"
        ".*--max-num-seqs or --max-num-batched-tokens"
    )
    with pytest.raises(GDNContractError, match=message):
        small.step(big.batch.common_metadata())


def test_missing_host_lengths_raise():
    ours = Ours(WORKLOADS[0])
    common = ours.batch.common_metadata()
    for group in common:
        group.seq_lens_cpu_upper_bound = None
    with pytest.raises(GDNContractError, match="seq_lens_cpu_upper_bound"):
        ours.step(common)


def test_missing_accepted_counts_raise():
    ours = Ours(WORKLOADS[6])
    ours.batch.extra["num_accepted_tokens"] = None
    with pytest.raises(GDNContractError, match="num_accepted_tokens"):
        ours.step(ours.batch.common_metadata())
