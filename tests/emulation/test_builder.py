# SPDX-License-Identifier: Apache-2.0
"""Our builder against vLLM-Ascend's own builder class, on batches as its runner makes them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadata

from ascend_gdn.attention.ascend import StepAscendGDNAttentionMetadata
from both_sides.ascend_workloads import TAKES_ACTUAL_REQUESTS, Ours, Theirs, TheirsHostOnly
from both_sides.workloads import WORKLOADS, Workload

from ..attention.spec_reference import recurrent_arguments
from ..attention.test_builder import SHARED_FIELDS

CHUNK_TABLES = (
    "chunk_indices_chunk64",
    "chunk_offsets_chunk64",
    "update_chunk_offsets_chunk64",
    "final_chunk_indices_chunk64",
    "chunk_indices_large_block",
    "block_indices_cumsum",
)
HOST_TUPLES = ("cu_seqlens_host", "chunk_indices_chunk64_host")

NEXT = TAKES_ACTUAL_REQUESTS
"""Whether this is vllm-ascend 0.30.0rc2."""


def both(workload: Workload) -> list[tuple[GDNAttentionMetadata, GDNAttentionMetadata]]:
    """What vLLM-Ascend and we make of it, for each KV cache group."""
    theirs, ours = Theirs(workload), Ours(workload)
    return list(
        zip(
            theirs.step(theirs.batch.common_metadata()),
            ours.step(ours.batch.common_metadata()),
            strict=True,
        )
    )


def assert_equal(name: str, theirs: object, ours: object) -> None:
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor), f"{name}: {ours}"
        theirs, ours = theirs.tolist(), ours.tolist()
    assert theirs == ours, name


def assert_same(workload: Workload) -> None:
    """All fields that both have are equal, in every group."""
    for theirs, ours in both(workload):
        for name in SHARED_FIELDS:
            assert_equal(name, getattr(theirs, name), getattr(ours, name))
        if theirs.num_prefills == 0:
            assert not isinstance(ours, StepAscendGDNAttentionMetadata)  # upstream's own build
            continue
        chunk = ours.non_spec_prefill_fallback_meta.chunk
        for name in CHUNK_TABLES + HOST_TUPLES:
            assert_equal(
                name, getattr(theirs.non_spec_prefill_metadata.chunk, name), getattr(chunk, name)
            )
        conv = theirs.non_spec_prefill_metadata.causal_conv1d
        assert_equal("query_start_loc", conv.query_start_loc, ours.non_spec_query_start_loc)
        # Its operator reads the first column of a table.
        indices = conv.cache_indices if conv.cache_indices.dim() == 1 else conv.cache_indices[:, 0]
        assert_equal("cache_indices", indices, ours.non_spec_state_indices_tensor)
        assert_equal("initial_state_mode", conv.initial_state_mode, ours.has_initial_state)
        if theirs.num_decodes > 0:
            decode = theirs.non_spec_decode_metadata.actual_seq_lengths
            assert_equal("decode lengths", decode, ours.decode_actual_seq_lengths)
        if theirs.num_spec_decodes > 0:
            spec = theirs.spec_decode_metadata
            assert_equal("spec lengths", spec.actual_seq_lengths, ours.spec_actual_seq_lengths)
            flat = theirs.spec_state_indices_tensor.flatten()
            assert_equal("spec states", flat, ours.spec_token_state_indices)
            assert_equal(
                "spec start",
                spec.spec_causal_conv1d.num_accepted_tokens,
                ours.spec_start_tokens,
            )
            assert ours.spec_moved_states is None


# Fewer than num_spec + 1 tokens of context or of query are cases of their own, below.
contexts = st.one_of(st.just(0), st.integers(1, 400))
decode_contexts = st.lists(st.integers(1, 500), max_size=20)


@settings(max_examples=200, deadline=None)
@given(
    decodes=decode_contexts,
    prefills=st.lists(st.tuples(st.integers(2, 300), contexts), max_size=12),
    state_block_size=st.sampled_from([0, 64, 96]),  # 0: no prefix caching
    full_graph=st.booleans(),
)
def test_equals_vllm_ascend_on_random_batches(decodes, prefills, state_block_size, full_graph):
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


@settings(max_examples=200, deadline=None)
@given(
    spec=st.lists(st.integers(1, 500), min_size=1, max_size=12),
    decodes=st.lists(st.integers(1, 500), max_size=5),
    prefills=st.lists(st.tuples(st.integers(6, 300), contexts), max_size=8),
    num_spec=st.integers(1, 4),
    state_block_size=st.sampled_from([0, 64, 96]),
    spec_last=st.booleans(),
    data=st.data(),
)
def test_equals_vllm_ascend_beside_speculative_requests(
    spec, decodes, prefills, num_spec, state_block_size, spec_last, data
):
    others = len(decodes) + len(prefills)
    accepted = [data.draw(st.integers(1, num_spec + 1)) for _ in spec]
    parts = [
        ([num_spec + 1] * len(spec), spec, [num_spec] * len(spec), accepted),
        (
            [1] * len(decodes) + [length for length, _ in prefills],
            decodes + [context for _, context in prefills],
            [-1] * others,
            [1] * others,
        ),
    ]
    if spec_last:
        parts.reverse()
    columns = [first + second for first, second in zip(*parts, strict=True)]
    assert_same(Workload("random", *columns, state_block_size))


@pytest.mark.skipif(not NEXT, reason="vllm-ascend 0.23.0 has one mode")
@settings(max_examples=200, deadline=None)
@given(
    decodes=decode_contexts,
    prefills=st.lists(st.tuples(st.integers(2, 300), contexts), min_size=1, max_size=12),
    state_block_size=st.sampled_from([0, 64, 96]),
)
def test_equals_its_host_only_mode(decodes, prefills, state_block_size):
    lengths = [1] * len(decodes) + [length for length, _ in prefills]
    context_lens = decodes + [context for _, context in prefills]
    workload = Workload("random", lengths, context_lens, state_block_size=state_block_size)
    theirs, ours = TheirsHostOnly(workload), Ours(workload)
    groups = (side.step(side.batch.common_metadata()) for side in (theirs, ours))
    for upstream, metadata in zip(*groups, strict=True):
        for name in SHARED_FIELDS:
            if name in ("chunk_indices", "chunk_offsets"):  # of the device's tables
                assert getattr(upstream, name) is None
            else:
                assert_equal(name, getattr(upstream, name), getattr(metadata, name))
        chunk = metadata.non_spec_prefill_fallback_meta.chunk
        for name in HOST_TUPLES:
            found = getattr(upstream.non_spec_prefill_metadata.chunk, name)
            assert_equal(name, found, getattr(chunk, name))


@pytest.mark.skipif(not NEXT, reason="vllm-ascend 0.23.0's runner does not say so")
@settings(max_examples=200, deadline=None)
@given(
    decodes=decode_contexts,
    prefills=st.lists(st.tuples(st.integers(2, 300), contexts), min_size=1, max_size=8),
    padding=st.integers(1, 6),
    spec=st.booleans(),
)
def test_rows_behind_the_actual_requests_do_not_count(decodes, prefills, padding, spec):
    """With ``num_actual_reqs`` both builders leave them out."""
    requests = len(decodes) + len(prefills)
    columns = [
        [1] * len(decodes) + [length for length, _ in prefills] + [0] * padding,
        decodes + [context for _, context in prefills] + [7] * padding,
    ]
    if spec:
        drafts = [3] + [-1] * (requests + padding)
        columns[0].insert(0, 4)
        columns[1].insert(0, 20)
        columns += [drafts, [2] + [1] * (requests + padding)]
        requests += 1
    sides = [side(Workload("padded", *columns)) for side in (Theirs, Ours)]
    for side in sides:
        side.batch.extra["num_actual_reqs"] = requests
    groups = (side.step(side.batch.common_metadata()) for side in sides)
    for upstream, metadata in zip(*groups, strict=True):
        for name in SHARED_FIELDS:
            assert_equal(name, getattr(upstream, name), getattr(metadata, name))


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_equals_vllm_ascend_on_the_benchmark_workloads(workload):
    assert_same(workload)


def test_the_first_chunk_of_one_token_beside_decodes():
    assert_same(Workload("one token", [1, 1, 1], [7, 9, 0]))


# Where ours differs from vLLM-Ascend's on purpose.


def first_group(workload: Workload) -> StepAscendGDNAttentionMetadata:
    return both(workload)[0][1]


def test_zero_length_in_the_middle_is_one_index_space():
    # query_start_loc [0, 128, 128, 256]: upstream's tables number the sequences 0 and 1, while its
    # cu_seqlens, state indices and flags have three.
    theirs, ours = both(Workload("zero in the middle", [128, 0, 128], [0, 5, 64]))[0]
    assert theirs.prefill_query_start_loc.tolist() == [0, 128, 128, 256]
    assert ours.prefill_query_start_loc.tolist() == [0, 128, 256]
    assert ours.chunk_indices.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert ours.prefill_state_indices.tolist() == [1, 3]
    assert ours.prefill_has_initial_state.tolist() == [False, True]


def test_padded_rows_are_dropped():
    # Upstream counts them as prefills without tokens, with rows in cu_seqlens and states.
    ours = Ours(Workload("padded", [1, 80, 0, 0], [7, 0, 0, 0]))
    ours.batch.is_prefilling = torch.tensor([False, True, False, False])
    metadata = ours.step(ours.batch.common_metadata())[0]
    assert (metadata.num_decodes, metadata.num_prefills) == (1, 1)
    assert metadata.non_spec_query_start_loc.tolist() == [0, 1, 81]
    assert metadata.has_initial_state.tolist() == [True, False]


def test_a_last_chunk_of_k_plus_1_tokens_is_a_prefill():
    # Upstream makes it verify drafts that it does not have: from the state of a last token that no
    # step has written, into states of which the next step takes the first.
    workload = Workload("last chunk", [4, 4], [50, 64], [3, -1], accepted=[2, 1])
    if NEXT:  # 0.30.0rc2 corrected it
        assert_same(workload)
        return
    theirs, ours = Theirs(workload), Ours(workload)
    for side in (theirs, ours):
        side.batch.is_prefilling = torch.tensor([False, True])
    upstream = theirs.step(theirs.batch.common_metadata())[0]
    metadata = ours.step(ours.batch.common_metadata())[0]
    assert (upstream.num_spec_decodes, upstream.num_prefills) == (2, 0)
    assert upstream.num_accepted_tokens.tolist() == [2, 4]
    assert (metadata.num_spec_decodes, metadata.num_prefills) == (1, 1)
    assert metadata.prefill_has_initial_state.tolist() == [True]


def test_a_first_chunk_of_k_plus_1_tokens_is_a_prefill():
    assert_same(Workload("first chunk", [4, 4], [50, 0], [3, -1], accepted=[2, 1]))


def test_a_one_token_prefill_remainder_with_a_state_decodes():
    ours = Ours(Workload("remainder", [1, 70], [64, 0]))
    ours.batch.is_prefilling = torch.tensor([True, True])
    metadata = ours.step(ours.batch.common_metadata())[0]
    assert (metadata.num_decodes, metadata.num_prefills) == (1, 1)


@pytest.mark.parametrize(
    ("lengths", "drafts", "accepted"),
    [
        pytest.param([4, 2, 4], [3, 1, 3], [2, 1, 4], id="drafts cut"),
        pytest.param([4, 2, 4], [3, 1, 3], [2, 4, 4], id="accepted more than the query has"),
        pytest.param([4, 1, 4], [3, -1, 3], [2, 3, 4], id="drafts lost"),
        pytest.param([1, 1, 1], [-1, -1, -1], [2, 3, 4], id="all drafts lost"),
    ],
)
@pytest.mark.parametrize("prefill", [False, True])
def test_speculative_requests_of_unequal_lengths(lengths, drafts, accepted, prefill):
    count = 3 + prefill
    others = [70] if prefill else []
    ours = Ours(
        Workload(
            "ragged", lengths + others, [50, 60, 80, 0][:count], [3] * count, [*accepted, 1][:count]
        )
    )
    if max(drafts) > 0:
        named = torch.tensor([*drafts, -1][:count], dtype=torch.int32)
        ours.batch.extra["num_decode_draft_tokens_cpu"] = named
    else:  # vLLM's runner names no drafts in such a step
        ours.batch.extra = {}
    for group, metadata in enumerate(ours.step(ours.batch.common_metadata())):
        assert (metadata.num_spec_decodes, metadata.num_prefills) == (3, int(prefill))
        assert metadata.num_accepted_tokens.tolist() == accepted  # for the convolution
        blocks = ours.batch.block_tables[group][:3, :4].tolist()
        expected = recurrent_arguments(blocks, lengths, accepted)
        assert metadata.spec_token_state_indices.tolist() == expected.state_indices
        assert metadata.spec_start_tokens.tolist() == expected.start_tokens
        moved = metadata.spec_moved_states
        pairs = (
            [] if moved is None else list(zip(moved[0].tolist(), moved[1].tolist(), strict=True))
        )
        assert pairs == expected.moves
        assert metadata.spec_actual_seq_lengths.tolist() == [0, *lengths]


def test_a_dummy_step_names_no_live_block():
    # Upstream's names the blocks of whatever request had the row last.
    workload = Workload("any", [1, 1], [9, 9])
    ours = Ours(workload)
    ours.batch.is_prefilling = torch.tensor([False, False])
    with ours.steps.idle():
        for metadata in ours.step(ours.batch.common_metadata()):
            assert metadata.num_decodes == 2
            assert not metadata.non_spec_state_indices_tensor.any()
    assert ours.step(ours.batch.common_metadata())[0].non_spec_state_indices_tensor.all()


def test_a_dummy_step_replays_a_graph_of_drafts_over_no_live_block():
    workload = Workload("verify", [4, 4], [9, 8], [3, 3], [2, 3])
    ours = Ours(workload)
    ours.batch.is_prefilling = torch.tensor([False, False])
    live = ours.step(ours.batch.common_metadata())
    assert all(metadata.spec_state_indices_tensor.all() for metadata in live)
    ours.batch.extra = {}  # vLLM-Ascend's dummy run names neither drafts nor counts
    with ours.steps.idle():
        for metadata in ours.step(ours.batch.common_metadata()):
            assert (metadata.num_prefills, metadata.num_spec_decodes) == (0, 2)
            assert not metadata.spec_state_indices_tensor.any()
            assert metadata.num_accepted_tokens.tolist() == [1, 1]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_prefill_step_is_planned_without_the_device(workload):
    # Nothing can be read from a tensor on the meta device.
    ours = Ours(workload)
    groups = ours.batch.common_metadata()
    for common in groups:
        for name in ("query_start_loc", "seq_lens", "block_table_tensor", "slot_mapping"):
            setattr(common, name, getattr(common, name).to("meta"))
    if workload.num_spec:
        accepted = ours.batch.extra["num_accepted_tokens"]
        ours.batch.extra["num_accepted_tokens"] = accepted.to("meta")
    for metadata in ours.step(groups):
        assert metadata.num_prefills > 0
