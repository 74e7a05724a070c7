# SPDX-License-Identifier: Apache-2.0
"""Each way to break the contract has its own error, naming layer, field, found, expected, cause."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import pytest

from ascend_gdn.attention.metadata import (
    GDNChunkedPrefillMetadata,
    GDNContractError,
    GDNPrefillFallbackMeta,
    require_prefill_meta,
)
from ascend_gdn.attention.step_metadata import require_step_metadata
from both_sides.workloads import DECODE_WORKLOADS, Ours, Theirs, Workload

LAYER = "model.layers.0.linear_attn"


@pytest.fixture
def ours() -> Ours:
    return Ours(Workload("two prompts", [70, 3], [0, 64]))


@pytest.fixture
def meta(ours: Ours) -> GDNPrefillFallbackMeta:
    return ours.step(ours.batch.common_metadata())[0].non_spec_prefill_fallback_meta


def test_a_meta_of_this_step_passes(meta):
    require_prefill_meta(meta, layer=LAYER, num_tokens=73, num_seqs=2)


def test_metadata_of_another_builder():
    theirs = Theirs(DECODE_WORKLOADS[0])
    metadata = theirs.step(theirs.batch.common_metadata())[0]
    with pytest.raises(GDNContractError) as caught:
        require_step_metadata(metadata, layer=LAYER, num_tokens=100)
    assert (caught.value.layer, caught.value.field) == (LAYER, "attn_metadata")
    assert (caught.value.found, caught.value.expected) == (
        "GDNAttentionMetadata",
        "StepGDNAttentionMetadata",
    )
    assert "--worker-cls" in str(caught.value)


def test_metadata_of_more_tokens_than_the_layer_has(ours):
    metadata = ours.step(ours.batch.common_metadata())[0]
    assert require_step_metadata(metadata, layer=LAYER, num_tokens=73) is metadata
    with pytest.raises(GDNContractError, match="73 tokens of requests, expected at most 72"):
        require_step_metadata(metadata, layer=LAYER, num_tokens=72)


def test_missing_meta():
    with pytest.raises(GDNContractError) as caught:
        require_prefill_meta(None, layer=LAYER, num_tokens=73, num_seqs=2)
    error = caught.value
    assert (error.layer, error.field) == (LAYER, "non_spec_prefill_fallback_meta")
    for part in (LAYER, "found None", "expected metadata of 2 prefill sequences", "--worker-cls"):
        assert part in str(error)


def test_meta_of_an_earlier_step_whose_slot_was_taken_again(ours, meta):
    ours.step(ours.batch.common_metadata())  # the other slot: still valid
    require_prefill_meta(meta, layer=LAYER, num_tokens=73, num_seqs=2)
    ours.step(ours.batch.common_metadata())
    with pytest.raises(GDNContractError, match=r"slot generation 2, expected 1.*earlier step"):
        require_prefill_meta(meta, layer=LAYER, num_tokens=73, num_seqs=2)


def test_meta_of_a_closed_pool(ours, meta):
    ours.steps.close()
    with pytest.raises(GDNContractError, match="generation"):
        require_prefill_meta(meta, layer=LAYER, num_tokens=73, num_seqs=2)


@pytest.mark.parametrize(("tokens", "seqs"), [(74, 2), (73, 3)])
def test_meta_of_another_batch(meta, tokens, seqs):
    with pytest.raises(GDNContractError, match="2 sequences, 73 tokens, expected") as caught:
        require_prefill_meta(meta, layer=LAYER, num_tokens=tokens, num_seqs=seqs)
    assert caught.value.field.endswith("cu_seqlens")


TABLES = [field.name for field in fields(GDNChunkedPrefillMetadata)]


@pytest.mark.parametrize("name", [name for name in TABLES if name != "cu_seqlens_cpu"])
def test_missing_table(meta, name):
    with pytest.raises(GDNContractError, match=f"{name}: found None, expected a table"):
        replace(meta.chunk, **{name: None})


@pytest.mark.parametrize(
    "name",
    [
        "cu_seqlens",
        "chunk_indices_chunk64",
        "chunk_offsets_chunk64",
        "update_chunk_offsets_chunk64",
        "final_chunk_indices_chunk64",
    ],
)
def test_table_that_does_not_match_cu_seqlens(meta, name):
    table = getattr(meta.chunk, name)
    with pytest.raises(GDNContractError, match=f"{name}: found {len(table) - 1} rows") as caught:
        replace(meta.chunk, **{name: table[:-1]})
    assert f"{len(table)} rows, for 2 sequences of together 73 tokens" in str(caught.value)


def test_tables_of_other_lengths_do_not_pass_for_these(meta):
    # As many sequences and tokens, but 1 + 2 chunks instead of 2 + 1 would pass; 1 + 1 must not.
    other = Ours(Workload("other", [60, 13], [0, 64]))
    chunk = other.step(other.batch.common_metadata())[0].non_spec_prefill_fallback_meta.chunk
    with pytest.raises(GDNContractError, match="different steps put together"):
        replace(meta.chunk, chunk_indices_chunk64=chunk.chunk_indices_chunk64)


def test_frozen(meta):
    with pytest.raises(FrozenInstanceError):
        meta.chunk.cu_seqlens = None
