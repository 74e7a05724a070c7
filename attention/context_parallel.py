# SPDX-License-Identifier: Apache-2.0
"""Prefill context parallelism: every rank has a part of each prompt, and all must fit together.

vLLM-Ascend 0.23.0 (worker/pcp_utils.py, ``update_tokens_for_pcp``) gives GDN layers consecutive
parts: of L tokens rank r has L // ranks, and one more if r < L % ranks; none, if L is small.
Decodes are the same on all ranks. Each rank plans its own part as any other step; this file adds
what the ranks exchange: N rows, a prefill each, on every rank, those without tokens there as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, TypeVar

import numpy as np
import torch

from ascend_gdn.attention.batch_split import BatchSplit, Requests
from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.table_layout import TableLayout

Array = TypeVar("Array", np.ndarray, torch.Tensor)


@dataclass(eq=False)
class ContextParallelBatch:
    """What a rank knows of the whole batch."""

    lengths: np.ndarray
    """[>= R] integer: tokens of each request in this step, over all ranks."""
    num_decodes: int
    """The first requests: decodes, which every rank computes."""
    size: int
    """Ranks."""
    rank: int


@dataclass(eq=False)
class ContextParallelSplit(BatchSplit):
    """A rank's own part of a step, beside what all ranks have of it."""

    prefills: Requests = field(kw_only=True)
    """N requests with their whole lengths, in the order of the batch."""
    shares: np.ndarray = field(kw_only=True)
    """[N, ranks] int32: how many tokens of each request each rank has."""
    rank: int = field(kw_only=True)

    @property
    def own_prefills(self) -> np.ndarray:
        """Which of the N prefills have tokens on this rank."""
        return self.shares[:, self.rank].nonzero()[0]


@dataclass(eq=False)
class ContextParallelTables:
    """What the layers of one KV cache group exchange; int32 on the device unless said otherwise.

    A convolution's history is W - 1 inputs. The layer puts together [1 + ranks, N, W - 1]: the
    histories before the step, then the last inputs of each rank, right-aligned. ``conv_*_rows``
    count in that, flat.
    """

    state_indices: torch.Tensor
    """[N]: state block of each prefill."""
    has_initial_state: torch.Tensor
    """[N] bool: whether tokens of it were computed in earlier steps."""
    conv_last_rows: torch.Tensor
    """[N * (W - 1)]: this rank's last inputs of each prefill, in its own tokens; where it has
    fewer, any of its tokens, to which no row points."""
    conv_past_rows: torch.Tensor
    """[N * (W - 1)]: the inputs before this rank's part."""
    conv_final_rows: torch.Tensor
    """[N * (W - 1)]: the last inputs of the step."""
    own_prefills: torch.Tensor | None
    """[prefills with tokens here]: which of the N they are; None if all N."""


@dataclass(eq=False)
class _Parts(Generic[Array]):
    """Views of the packed buffer's region for these tables, at the size of the largest step."""

    state_indices: Sequence[Array]
    """A group each."""
    flags: Array
    """Bytes, one for each prefill; the rest is unused."""
    own_prefills: Array
    last_rows: Array
    past_rows: Array
    final_rows: Array


def _parts(region: Array, layout: TableLayout) -> _Parts[Array]:
    seqs, groups, history = layout.max_seqs, layout.num_groups, layout.conv_history
    indices = [region[group * seqs : (group + 1) * seqs] for group in range(groups)]
    bounds = (groups * seqs + seqs * np.cumsum([0, 1, 1, history, history, history])).tolist()
    return _Parts(indices, *(region[start:end] for start, end in pairwise(bounds)))


def split_context_parallel(
    query_start_loc: np.ndarray, seq_lens: np.ndarray, batch: ContextParallelBatch
) -> ContextParallelSplit:
    """Split a batch alike on all ranks, whatever a rank has of each request.

    A part of one token is no decode, and a request without tokens on this rank still has its row
    in what the ranks exchange. (vLLM-Ascend 0.23.0 goes by a rank's own lengths.)

    Args:
        query_start_loc: [R + 1] int32, where each request's tokens start on this rank.
        seq_lens: [R] int32, tokens of earlier steps and of this rank in this one.
        batch: The whole batch.

    Raises:
        GDNContractError: the tokens are split in another way than this file says.
    """
    lengths = query_start_loc[1:] - query_start_loc[:-1]
    context_lens = seq_lens - lengths
    decodes, whole = batch.num_decodes, batch.lengths[: len(lengths)]
    rows = decodes + whole[decodes:].nonzero()[0]
    prefills = Requests(rows, whole[rows], context_lens[rows])
    ranks = np.arange(batch.size)
    shares = prefills.lengths[:, None] // batch.size + (
        ranks < prefills.lengths[:, None] % batch.size
    )
    expected = np.zeros_like(lengths)
    expected[:decodes] = 1
    expected[rows] = shares[:, batch.rank]
    if not np.array_equal(lengths, expected):
        raise GDNContractError(
            layer="ContextParallelSplit",
            field="common_attn_metadata.query_start_loc_cpu",
            found=f"lengths {lengths.tolist()} on rank {batch.rank} of {batch.size}",
            expected=f"{expected.tolist()}",
            cause="another way to split prompts over ranks than that of vLLM-Ascend 0.23.0, or "
            "speculative decoding",
        )
    own = lengths.nonzero()[0]
    return ContextParallelSplit(
        non_spec=Requests(own, lengths[own], context_lens[own]),
        num_decodes=decodes,
        num_tokens=int(query_start_loc[-1]),
        prefills=prefills,
        shares=shares,
        rank=batch.rank,
    )


def fill_context_parallel(
    region: np.ndarray,
    layout: TableLayout,
    split: ContextParallelSplit,
    blocks: list[np.ndarray],
) -> None:
    """Write the tables of a step with prefills.

    Args:
        region: The buffer's ``context_parallel``, int32.
        layout: Of the buffer.
        split: The step's requests.
        blocks: A group each, [N] int32: state block of each prefill.
    """
    parts, history, count = _parts(region, layout), layout.conv_history, len(split.prefills)
    for group, indices in enumerate(blocks):
        parts.state_indices[group][:count] = indices
    parts.flags.view(np.bool_)[:count] = split.prefills.context_lens > 0
    own = split.own_prefills
    parts.own_prefills[: len(own)] = own
    ends = split.num_decodes + np.cumsum(split.shares[:, split.rank])
    back = np.arange(-history, 0)
    last = (ends[:, None] + back).clip(0, max(split.num_tokens - 1, 0))
    parts.last_rows[: count * history] = last.ravel()
    starts = np.zeros((count, split.shares.shape[1] + 1), dtype=np.int64)
    np.cumsum(split.shares, axis=1, out=starts[:, 1:])
    for rows, start in (
        (parts.past_rows, starts[:, split.rank]),
        (parts.final_rows, starts[:, -1]),
    ):
        rows[: count * history] = _rows_before(start, starts, history).ravel()


def _rows_before(start: np.ndarray, starts: np.ndarray, history: int) -> np.ndarray:
    """[N, W - 1]: where the inputs before token ``start`` [N] of each prefill are.

    ``starts`` [N, ranks + 1] says where each rank's part of it starts, and where the last one ends.
    """
    count = len(start)
    tokens = start[:, None] + np.arange(-history, 0)
    # 0: of an earlier step; then 1 more than the rank that has it.
    source = (tokens[:, :, None] >= starts[:, None, :-1]).sum(-1)
    # Ranks that have none of it start where the next does, so the last one that starts has it.
    end = np.take_along_axis(starts, source, axis=1)
    return (source * count + np.arange(count)[:, None]) * history + history - (end - tokens)


def tables_of(
    region: torch.Tensor, layout: TableLayout, split: ContextParallelSplit, group: int
) -> ContextParallelTables:
    """Name the device views of a step's tables, for the layers of ``group``."""
    parts, count = _parts(region, layout), len(split.prefills)
    rows, own = count * layout.conv_history, split.num_prefills
    return ContextParallelTables(
        state_indices=parts.state_indices[group][:count],
        has_initial_state=parts.flags.view(torch.bool)[:count],
        conv_last_rows=parts.last_rows[:rows],
        conv_past_rows=parts.past_rows[:rows],
        conv_final_rows=parts.final_rows[:rows],
        own_prefills=None if own == count else parts.own_prefills[:own],
    )
