# SPDX-License-Identifier: Apache-2.0
"""A slot's tables cut to some sequences: the right rows, of the slot's memory, made once."""

from __future__ import annotations

import torch

from ascend_gdn.attention.seq_tables import SeqViews
from ascend_gdn.attention.table_layout import TableLayout, Tables

LAYOUT = TableLayout(max_seqs=6, max_tokens=300, num_groups=3, cumsum_block=64, num_spec=2)
FLAGS = ("has_initial_state",)


def tables_and_views() -> tuple[Tables[torch.Tensor], SeqViews]:
    buffer = torch.arange(LAYOUT.num_elements, dtype=torch.int32)
    tables = Tables.over(buffer, LAYOUT)
    for name in FLAGS:  # any other byte is no bool
        getattr(tables, name).copy_(torch.arange(getattr(tables, name).numel()) % 2 == 0)
    return tables, SeqViews(tables)


def test_rows_of_sequences():
    tables, views = tables_and_views()
    for seqs in (0, 1, 4, 6):
        found = views.of(seqs)
        for name in ("query_start_loc", "cu_seqlens"):
            assert getattr(found, name).tolist() == getattr(tables, name)[: seqs + 1].tolist(), name
        for name in ("chunk_offsets_chunk64", "update_chunk_offsets_chunk64"):
            assert getattr(found, name).tolist() == getattr(tables, name)[: seqs + 1].tolist(), name
        for name in ("has_initial_state", "final_chunk_indices_chunk64"):
            assert getattr(found, name).tolist() == getattr(tables, name)[:seqs].tolist(), name
        assert [each.tolist() for each in found.state_indices] == [
            table[:seqs].tolist() for table in tables.state_indices
        ]


def test_rows_of_speculative_requests():
    tables, views = tables_and_views()
    for seqs in (0, 1, 4, 6):
        found = views.of_spec(seqs)
        assert found.query_start_loc.tolist() == tables.spec_query_start_loc[: seqs + 1].tolist()
        lengths = tables.spec_actual_seq_lengths[: seqs + 1]
        assert found.actual_seq_lengths.tolist() == lengths.tolist()
        assert found.num_accepted_tokens.tolist() == tables.num_accepted_tokens[:seqs].tolist()
        for group in range(LAYOUT.num_groups):
            blocks = tables.spec_state_indices[group, :seqs]
            assert found.state_indices[group].tolist() == blocks.tolist()
            assert found.token_state_indices[group].tolist() == blocks.flatten().tolist()


def test_views_are_made_once_and_show_what_is_written_later():
    tables, views = tables_and_views()
    first, spec = views.of(3), views.of_spec(2)
    tables.cu_seqlens.fill_(7)
    tables.state_indices[1].fill_(8)
    tables.spec_state_indices[2].fill_(9)
    assert views.of(3) is first and views.of_spec(2) is spec
    assert first.cu_seqlens.tolist() == [7] * 4
    assert first.state_indices[1].tolist() == [8] * 3
    assert spec.token_state_indices[2].tolist() == [9] * 6
