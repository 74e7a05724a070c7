# SPDX-License-Identifier: Apache-2.0
"""Our builder against vLLM's own builder class, on batches as vLLM's runner makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadata

from ascend_gdn.attention.builder import StepGDNAttentionMetadataBuilder
from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.attention.step import GDNSteps
from ascend_gdn.attention.step_inputs import StepInputs
from both_sides.workloads import (
    CPU,
    DECODE_WORKLOADS,
    WORKLOADS,
    Batch,
    Ours,
    Theirs,
    Workload,
    builder_arguments,
)
from upstream_calls import OLDEST

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


def assert_same(workload: Workload, ours_cls: type[Ours] = Ours) -> None:
    assert_equals_vllm(ours_cls(workload), workload)


def assert_equals_vllm(ours: Ours, workload: Workload) -> None:
    theirs = Theirs(workload)
    expected = theirs.step(theirs.batch.common_metadata())
    found = ours.step(ours.batch.common_metadata())
    for group, (want, got) in enumerate(zip(expected, found, strict=True)):
        for name in SHARED_FIELDS:
            left, right = getattr(want, name), getattr(got, name)
            if isinstance(left, torch.Tensor):
                assert right is not None, f"group {group}: {name} is None"
                rest = right[len(left) :].tolist()
                assert left.tolist() == right[: len(left)].tolist(), f"group {group}: {name}"
                # vLLM 0.30.0's graphs have rows for requests, 0.23.0's, as ours, for tokens.
                assert not rest or (not OLDEST and rest == rest[:1] * len(rest)), name
            else:
                assert left == right, f"group {group}: {name}"


requests = st.tuples(st.integers(2, 300), st.integers(0, 400))
state_block_sizes = st.sampled_from([0, 64, 96])  # 0: no prefix caching


@settings(max_examples=100, deadline=None)
@given(
    decodes=st.lists(st.integers(1, 500), max_size=20),
    prefills=st.lists(requests, max_size=12),
    state_block_size=state_block_sizes,
    full_graph=st.booleans(),
)
def test_equals_vllm_on_random_batches(decodes, prefills, state_block_size, full_graph):
    if decodes or prefills:
        assert_same(
            Workload(
                "random",
                [1] * len(decodes) + [length for length, _ in prefills],
                decodes + [context for _, context in prefills],
                state_block_size=state_block_size,
                full_graph=full_graph,
            )
        )


@settings(max_examples=100, deadline=None)
@given(
    spec=st.lists(st.integers(1, 500), min_size=1, max_size=12),
    decodes=st.lists(st.integers(1, 500), max_size=5),
    prefills=st.lists(requests, max_size=8),
    num_spec=st.integers(1, 4),
    state_block_size=state_block_sizes,
    data=st.data(),
)
def test_equals_vllm_beside_speculative_requests(
    spec, decodes, prefills, num_spec, state_block_size, data
):
    others = len(decodes) + len(prefills)
    # The first keeps all its drafts; the others may have lost some to the token budget.
    lost = st.integers(0, num_spec)
    drafts = [num_spec] + [num_spec - data.draw(lost) for _ in spec[1:]]
    accepted = [data.draw(st.integers(1, num_spec + 1)) for _ in spec]
    assert_same(
        Workload(
            "random",
            [count + 1 for count in drafts]
            + [1] * len(decodes)
            + [length for length, _ in prefills],
            spec + decodes + [context for _, context in prefills],
            drafts + [-1] * others,
            accepted + [1] * others,
            state_block_size,
            full_graph=data.draw(st.booleans()),
        )
    )


@pytest.mark.parametrize(
    "workload", WORKLOADS + DECODE_WORKLOADS, ids=lambda workload: workload.name
)
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


def first_group(workload: Workload) -> GDNAttentionMetadata:
    ours = Ours(workload)
    return ours.step(ours.batch.common_metadata())[0]


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


def test_a_decode_that_lost_its_drafts_goes_on_from_the_last_token_it_kept():
    # vLLM decodes it from its first block, which holds the state after the first kept token.
    metadata = first_group(
        Workload("lost drafts", [4, 1, 1], [50, 60, 70], [3, -1, -1], accepted=[2, 3, 1])
    )
    assert (metadata.num_spec_decodes, metadata.num_prefills) == (2, 1)
    assert metadata.spec_state_indices_tensor.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert metadata.num_accepted_tokens.tolist() == [2, 3]
    assert metadata.prefill_state_indices.tolist() == [9]
    assert metadata.spec_token_indx.tolist() == [0, 1, 2, 3, 4]


def test_a_step_whose_decodes_all_lost_their_drafts():
    # vLLM's runner names no drafts in such a step.
    workload = Workload("lost drafts", [1, 1], [50, 60], [3, 3], accepted=[4, 2])
    ours = Ours(workload)
    ours.batch.extra = {}
    for group, metadata in enumerate(ours.step(ours.batch.common_metadata())):
        assert (metadata.num_spec_decodes, metadata.num_spec_decode_tokens) == (2, 2)
        assert (metadata.num_decodes, metadata.num_prefills) == (0, 0)
        blocks = ours.batch.block_tables[group][:2, :4]
        assert metadata.spec_state_indices_tensor.tolist() == blocks.tolist()
        assert metadata.num_accepted_tokens.tolist() == [4, 2]
        assert metadata.spec_query_start_loc.tolist() == [0, 1, 2]


def test_k_plus_1_token_prompt_is_a_prefill():
    # By its shape alone it would pass for a request that verifies 3 drafts.
    metadata = first_group(Workload("prompt", [4, 4], [50, 0], [3, -1]))
    assert (metadata.num_spec_decodes, metadata.num_prefills) == (1, 1)
    assert metadata.prefill_has_initial_state.tolist() == [False]
    ours = Ours(Workload("prompt alone", [4], [0], [3]))
    ours.batch.extra["num_decode_draft_tokens_cpu"][0] = -1
    alone = ours.step(ours.batch.common_metadata())[0]
    assert (alone.num_spec_decodes, alone.num_prefills, alone.num_decodes) == (0, 1, 0)


def test_one_token_prefill_remainder_beside_speculative_requests():
    metadata = first_group(Workload("remainder", [4, 1], [50, 64], [3, -1]))
    assert (metadata.num_spec_decodes, metadata.num_prefills) == (1, 1)
    assert metadata.prefill_has_initial_state.tolist() == [True]


def test_accepted_count_larger_than_the_query_is_kept():
    # It counts the tokens of the last step: the state is where it says, however few follow now.
    # vLLM-Ascend clamps it to the query (gdn_attn_builder.py, main), which takes an older state.
    metadata = first_group(Workload("short query", [4, 2], [50, 60], [3, 1], accepted=[1, 4]))
    assert metadata.num_accepted_tokens.tolist() == [1, 4]


@pytest.mark.parametrize(
    "workload",
    [
        pytest.param(Workload("any", [1, 1], [9, 9]), id="decode"),
        pytest.param(Workload("any", [1, 1], [9, 9], full_graph=True), id="decode, graph"),
        pytest.param(Workload("any", [4, 4], [9, 9], [3, 3], [4, 2]), id="speculative"),
        pytest.param(
            Workload("any", [4, 4], [9, 9], [3, 3], [4, 2], full_graph=True),
            id="speculative, graph",
        ),
        pytest.param(Workload("any", [4, 1], [9, 9], [3, -1], [4, 2]), id="stale drafts"),
        pytest.param(Workload("any", [1, 300], [9, 9]), id="mixed"),
        pytest.param(Workload("any", [4, 90], [9, 9], [3, -1], [4, 1]), id="mixed, speculative"),
        pytest.param(Workload("any", [1, 90], [9, 9], state_block_size=64), id="prefix caching"),
    ],
)
def test_a_dummy_step_names_no_live_block(workload):
    # The rows that it runs over are those of live requests here.
    ours = Ours(workload)
    with ours.steps.idle():
        groups = ours.step(ours.batch.common_metadata())
    for metadata in groups:
        for name in ("spec_state_indices_tensor", "non_spec_state_indices_tensor"):
            indices = getattr(metadata, name)
            assert indices is None or not indices.any(), name
        assert metadata.prefill_state_indices is None or not metadata.prefill_state_indices.any()
    # The next step is a real one again.
    metadata = ours.step(ours.batch.common_metadata())[0]
    indices = metadata.spec_state_indices_tensor
    assert (metadata.non_spec_state_indices_tensor if indices is None else indices).any()


@pytest.mark.parametrize("num_spec", [0, 3])
def test_a_graph_is_captured_for_decodes(num_spec):
    # vLLM's dummy batch for it: each request has as many tokens as it ever had.
    rows = 8
    workload = Workload(
        "capture",
        [1 + num_spec] * rows,
        [0] * rows,
        [num_spec] * rows if num_spec else [],
        full_graph=True,
    )
    ours = Ours(workload)
    with ours.steps.idle(), ours.steps.open():
        for builder, common in zip(ours.builders, ours.batch.common_metadata(), strict=True):
            metadata = builder.build_for_cudagraph_capture(common)
            assert metadata.num_prefills == 0
            assert metadata.num_decodes + metadata.num_spec_decodes == rows


@pytest.mark.parametrize("workload", [DECODE_WORKLOADS[3], DECODE_WORKLOADS[4]], ids=["", "MTP"])
def test_a_graph_finds_its_inputs_at_the_same_addresses(workload):
    ours = Ours(workload)
    steps = [ours.step(ours.batch.common_metadata()) for _ in range(3)]
    for group in range(3):
        addresses = {
            tuple(
                value.data_ptr()
                for value in vars(step[group]).values()
                if isinstance(value, torch.Tensor)
            )
            for step in steps
        }
        assert len(addresses) == 1


class ThreeDrafts(Workload):
    num_spec = 3


@pytest.mark.parametrize("full_graph", [False, True])
def test_what_a_builder_keeps_of_a_step_fits_the_next(full_graph):
    # As many tokens of other requests; as many requests, of other lengths; and all of it again.
    steps = [[3] * 4, [-1] * 16, [1] * 8, [3, 1, 3], [3, 3], [-1] * 4, [1, 3, 3], [1]] * 2
    ours = Ours(ThreeDrafts("any", [4], [9], [3], full_graph=full_graph))
    for number, drafts in enumerate(steps):
        lengths = [max(count, 0) + 1 for count in drafts]
        accepted = [1 + (number + row) % length for row, length in enumerate(lengths)]
        workload = ThreeDrafts(
            "any", lengths, [50 + number] * len(lengths), drafts, accepted, full_graph=full_graph
        )
        ours.batch = Batch(workload)
        assert_equals_vllm(ours, workload)


def test_padding_of_a_full_graph_is_null():
    ours = Ours(Workload("padded", [1, 1], [9, 9], full_graph=True))
    ours.step(Ours(Workload("full", [1] * 8, [9] * 8, full_graph=True)).batch.common_metadata())
    common = ours.batch.common_metadata()
    for group in common:
        group.num_actual_tokens = 8  # vLLM's runner pads it to the size of the graph
    for metadata, table in zip(ours.step(common), ours.batch.block_tables, strict=True):
        indices = metadata.non_spec_state_indices_tensor
        assert indices.tolist() == table[:2, 0].tolist() + [0] * 6
        assert metadata.non_spec_query_start_loc.tolist() == [0, 1] + [2] * 7


def test_a_step_leaves_nothing_of_the_one_before():
    ours = Ours(WORKLOADS[1])
    for slot in ours.steps.pool._slots:
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
    inputs = StepInputs(ours.block_tables)
    ours.steps = GDNSteps(ours.steps.pool.layout, CPU, lambda idle: inputs, GDNStats())
    for group, builder in enumerate(ours.builders):
        builder.bind(ours.steps, group)
    with pytest.raises(GDNContractError, match="num_accepted_tokens"):
        ours.step(ours.batch.common_metadata())
