# SPDX-License-Identifier: Apache-2.0
"""Device views of a slot's tables, cut to the sequences of a step.

A slot's addresses never change, so the views for n sequences are made once, the first time that a
step has n, and kept: a slice of a torch tensor takes 1 us, and a step needs ten to twenty. There
are at most ``max_seqs`` of each kind, about 5 KB each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ascend_gdn.attention.table_layout import Tables


@dataclass(eq=False)
class SeqTables:
    """The tables that have a row a sequence, for n sequences; int32 unless said otherwise."""

    query_start_loc: torch.Tensor
    """[n + 1]"""
    has_initial_state: torch.Tensor
    """[n] bool"""
    state_indices: tuple[torch.Tensor, ...]
    """A KV cache group each: [n]"""
    prefill_state_indices: tuple[torch.Tensor, ...]
    """A KV cache group each: [n] int64"""
    cu_seqlens: torch.Tensor
    """[n + 1]"""
    chunk_offsets_chunk64: torch.Tensor
    """[n + 1]"""
    update_chunk_offsets_chunk64: torch.Tensor
    """[n + 1]"""
    final_chunk_indices_chunk64: torch.Tensor
    """[n]"""


@dataclass(eq=False)
class SpecSeqTables:
    """The tables that have a row a speculative request, for n requests; int32."""

    query_start_loc: torch.Tensor
    """[n + 1]: where each request's tokens start among the speculative tokens."""
    actual_seq_lengths: torch.Tensor
    """[n + 1]: 0, then each request's tokens."""
    num_accepted_tokens: torch.Tensor
    """[n]: tokens that each request kept of its last step."""
    state_indices: tuple[torch.Tensor, ...]
    """A KV cache group each: [n, num_spec + 1], state blocks of each request."""
    token_state_indices: tuple[torch.Tensor, ...]
    """The same, flat."""


class SeqViews:
    """The views of one slot, by number of sequences."""

    def __init__(self, tables: Tables[torch.Tensor]) -> None:
        self._tables = tables
        self._seqs: dict[int, SeqTables] = {}
        self._spec_seqs: dict[int, SpecSeqTables] = {}

    def of(self, seqs: int) -> SeqTables:
        """Return the tables of ``seqs`` sequences."""
        views = self._seqs.get(seqs)
        if views is None:
            tables, offsets = self._tables, seqs + 1
            views = self._seqs[seqs] = SeqTables(
                query_start_loc=tables.query_start_loc[:offsets],
                has_initial_state=tables.has_initial_state[:seqs],
                state_indices=tables.state_indices[:, :seqs].unbind(0),
                prefill_state_indices=tables.prefill_state_indices[:, :seqs].unbind(0),
                cu_seqlens=tables.cu_seqlens[:offsets],
                chunk_offsets_chunk64=tables.chunk_offsets_chunk64[:offsets],
                update_chunk_offsets_chunk64=tables.update_chunk_offsets_chunk64[:offsets],
                final_chunk_indices_chunk64=tables.final_chunk_indices_chunk64[:seqs],
            )
        return views

    def of_spec(self, seqs: int) -> SpecSeqTables:
        """Return the tables of ``seqs`` speculative requests."""
        views = self._spec_seqs.get(seqs)
        if views is None:
            tables, offsets = self._tables, seqs + 1
            state_indices = tables.spec_state_indices[:, :seqs].unbind(0)
            views = self._spec_seqs[seqs] = SpecSeqTables(
                query_start_loc=tables.spec_query_start_loc[:offsets],
                actual_seq_lengths=tables.spec_actual_seq_lengths[:offsets],
                num_accepted_tokens=tables.num_accepted_tokens[:seqs],
                state_indices=state_indices,
                token_state_indices=tuple(each.view(-1) for each in state_indices),
            )
        return views
