# SPDX-License-Identifier: Apache-2.0
"""The plan of one prefill-bearing step: every table, for every KV cache group, in one pool slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ascend_gdn.attention.batch_split import BatchSplit, Requests
from ascend_gdn.attention.chunk_plan import TableRows, fill_conv_tables, fill_offsets
from ascend_gdn.attention.context_parallel import ContextParallelSplit, fill_context_parallel
from ascend_gdn.attention.metadata import (
    GDNCausalConv1dHostMetadata,
    GDNChunkedPrefillMetadata,
    GDNContractError,
    GDNPrefillFallbackMeta,
    TableSlot,
)
from ascend_gdn.attention.seq_tables import SeqTables, SeqViews, SpecSeqTables
from ascend_gdn.attention.step_inputs import StepInputs
from ascend_gdn.attention.table_fill import TableFill
from ascend_gdn.attention.table_layout import TableLayout, Tables


class Slot(TableSlot, Protocol):
    """A slot of the runner's pool: written by the plan, then read-only until it is taken again."""

    layout: TableLayout
    host: np.ndarray
    """[layout.num_elements] int32, the buffer to write."""
    host_tables: Tables[np.ndarray]
    device_tables: Tables[torch.Tensor]
    """On the model's device."""
    views: SeqViews
    """Of ``device_tables``."""


@dataclass(eq=False)  # not frozen: each step makes one
class SpecTables:
    """What S speculative requests add to a step, on the device."""

    seqs: SpecSeqTables
    """Of the S requests."""
    sequence_masks: torch.Tensor
    """[R] bool over the runner's rows."""
    token_indx: torch.Tensor
    """[speculative tokens] int32: where they are among the step's tokens."""
    non_spec_token_indx: torch.Tensor
    """[other tokens] int32"""


@dataclass(eq=False)
class ConvTables:
    """The programs of a Triton convolution over D decodes and N prefills, for vLLM's kernel."""

    batch_ptr: torch.Tensor
    """[programs] int32 on the device: the sequence of each."""
    token_chunk_offset_ptr: torch.Tensor
    """[programs] int32 on the device: which block of the sequence."""


@dataclass(eq=False)
class StepPlan:
    """What all KV cache groups share of a step that has prefills: D decodes, N prefills."""

    split: BatchSplit
    slot: Slot
    generation: int
    chunk: GDNChunkedPrefillMetadata
    seqs: SeqTables
    """Of the D + N sequences, decodes first."""
    prefill_seqs: SeqTables
    """Of the N prefills."""
    spec: SpecTables | None
    conv: ConvTables | None
    """None where the layout has no such tables."""

    def prefill_meta(self, group: int) -> GDNPrefillFallbackMeta:
        """The contract's metadata for the layers of ``group``."""
        tables, split = self.slot.host_tables, self.split
        prefills = slice(split.num_decodes, len(split.non_spec))
        return GDNPrefillFallbackMeta(
            chunk=self.chunk,
            causal_conv1d=GDNCausalConv1dHostMetadata(
                query_start_loc_cpu=self.chunk.cu_seqlens_cpu,
                cache_indices_cpu=tables.state_indices[group, prefills],
                has_initial_state_cpu=tables.has_initial_state[prefills],
            ),
            slot=self.slot,
            generation=self.generation,
        )


def check_capacity(split: BatchSplit, layout: TableLayout) -> None:
    """Raise :class:`GDNContractError` if the step is larger than the pool was made for."""
    seqs = split.num_decodes + split.num_prefills + (0 if split.spec is None else len(split.spec))
    tokens = split.num_tokens
    if seqs > layout.max_seqs or tokens > layout.max_tokens:
        raise GDNContractError(
            layer="StepBufferPool",
            field="capacity",
            found=f"a step of {seqs} sequences and {tokens} tokens",
            expected=f"at most {layout.max_seqs} sequences and {layout.max_tokens} tokens",
            cause="the scheduler exceeds the configuration that the pool was sized from; raise "
            "--max-num-seqs or --max-num-batched-tokens",
        )


def fill_slot(
    slot: Slot,
    split: BatchSplit,
    query_start_loc: np.ndarray,
    inputs: StepInputs,
    fill: TableFill,
) -> TableRows:
    """Write all tables of a step into the slot's host buffer, but for those that a kernel makes.

    Args:
        slot: A slot just taken from the pool; ``check_capacity`` holds.
        split: The step's requests.
        query_start_loc: [R + 1] int32, of the runner's batch.
        inputs: Of the runner's batch.
        fill: Writes the chunk tables.
    """
    tables, requests, seqs = slot.host_tables, split.non_spec, len(split.non_spec)
    if split.num_prefills > 0:
        rows = fill.write(slot.host, tables, slot.layout, requests.lengths[split.num_decodes :])
    else:
        slot.host[: slot.layout.num_fixed] = slot.layout.padding
        rows = TableRows(0, 0, 0)
    fill_offsets(tables.query_start_loc, requests.lengths)
    tables.has_initial_state[:seqs] = requests.context_lens  # as bool: whether there is any
    for group, blocks in enumerate(inputs.first_blocks(requests.rows)):
        tables.state_indices[group, :seqs] = blocks
        prefill_blocks = blocks[split.num_decodes :]
        tables.prefill_state_indices[group, : split.num_prefills] = prefill_blocks
    if slot.layout.conv_block:
        conv_rows = fill_conv_tables(tables, slot.layout, requests.lengths)
        rows = rows._replace(conv=conv_rows)
    if isinstance(split, ContextParallelSplit):
        # The layer puts what comes before a rank's part where the convolution finds it.
        tables.has_initial_state[:seqs] = True
        all_blocks = inputs.first_blocks(split.prefills.rows)
        fill_context_parallel(tables.context_parallel, slot.layout, split, all_blocks)
    if split.spec is not None:
        fill_spec(tables, split.spec, inputs)
        _fill_token_indx(tables, split, query_start_loc, slot.layout.arange)
    return rows


def fill_spec(tables: Tables[np.ndarray], spec: Requests, inputs: StepInputs) -> None:
    """Write where the speculative requests' tokens start, what they kept, and where it is."""
    seqs, width = len(spec), tables.spec_state_indices.shape[-1]
    fill_offsets(tables.spec_query_start_loc, spec.lengths)
    tables.spec_actual_seq_lengths[1 : seqs + 1] = spec.lengths  # the start is 0, as is padding
    assert inputs.num_accepted_tokens is not None
    tables.num_accepted_tokens[:seqs] = inputs.num_accepted_tokens[spec.rows]
    tables.spec_sequence_masks[:seqs] = True
    for group in range(len(inputs.block_tables)):
        tables.spec_state_indices[group, :seqs] = inputs.spec_blocks(group, spec.rows, width)


def _fill_token_indx(
    tables: Tables[np.ndarray], split: BatchSplit, query_start_loc: np.ndarray, arange: np.ndarray
) -> None:
    """Write which tokens are the speculative requests' and which are the others'."""
    assert split.spec_mask is not None
    mask, others = split.spec_mask, split.num_prefill_tokens
    tables.spec_sequence_masks[: len(mask)] = mask
    if split.spec_first:
        tables.token_indx[:others] = arange[split.num_spec_tokens : split.num_tokens]
        tables.token_indx[others : split.num_tokens] = arange[: split.num_spec_tokens]
        return
    token_is_spec = mask.repeat(query_start_loc[1:] - query_start_loc[:-1])
    tables.token_indx[:others] = (~token_is_spec).nonzero()[0]
    tables.token_indx[others : len(token_is_spec)] = token_is_spec.nonzero()[0]


def used_elements(layout: TableLayout, split: BatchSplit, conv_rows: int = 0) -> int:
    """How far a step fills its slot, and sends it."""
    if split.spec is not None:
        return layout.places["token_indx"].start + split.num_tokens
    if conv_rows:
        return layout.places["token_chunk_offset_ptr"].start + conv_rows
    return layout.num_fixed


def plan_of(slot: Slot, split: BatchSplit, rows: TableRows) -> StepPlan:
    """Name the device views of a slot that was filled with ``rows`` and copied."""
    tables, prefills, seqs = slot.device_tables, split.num_prefills, len(split.non_spec)
    prefill_seqs = slot.views.of(prefills)
    chunk = GDNChunkedPrefillMetadata(
        cu_seqlens=prefill_seqs.cu_seqlens,
        chunk_indices_chunk64=tables.chunk_indices_chunk64[: rows.chunk64],
        chunk_offsets_chunk64=prefill_seqs.chunk_offsets_chunk64,
        update_chunk_offsets_chunk64=prefill_seqs.update_chunk_offsets_chunk64,
        final_chunk_indices_chunk64=prefill_seqs.final_chunk_indices_chunk64,
        chunk_indices_large_block=tables.chunk_indices_large_block[: rows.large_block],
        block_indices_cumsum=tables.block_indices_cumsum[: rows.cumsum],
        cu_seqlens_cpu=slot.host_tables.cu_seqlens[: prefills + 1],
        chunk_indices_chunk64_cpu=slot.host_tables.chunk_indices_chunk64[: rows.chunk64],
    )
    spec = None
    if split.spec is not None and split.spec_mask is not None:
        others, own = split.num_prefill_tokens, split.num_spec_tokens
        spec = SpecTables(
            seqs=slot.views.of_spec(len(split.spec)),
            sequence_masks=tables.spec_sequence_masks[: len(split.spec_mask)],
            token_indx=tables.token_indx[others : others + own],
            non_spec_token_indx=tables.token_indx[:others],
        )
    conv = None
    if rows.conv:
        conv = ConvTables(tables.batch_ptr[: rows.conv], tables.token_chunk_offset_ptr[: rows.conv])
    return StepPlan(
        split=split,
        slot=slot,
        generation=slot.generation,
        chunk=chunk,
        seqs=slot.views.of(seqs),
        prefill_seqs=prefill_seqs,
        spec=spec,
        conv=conv,
    )
