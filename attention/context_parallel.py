# SPDX-License-Identifier: Apache-2.0
"""Prefill context parallelism: every rank has a part of each prompt, and all must fit together.

vLLM-Ascend 0.23.0 (worker/pcp_utils.py, ``update_tokens_for_pcp``) gives GDN layers consecutive
parts: of L tokens rank r has L // ranks, and one more if r < L % ranks; none, if L is small.
Decodes are the same on all ranks. Each rank plans its own part as any other step; this file adds
what the ranks exchange: N rows, a prefill each, on every rank, those without tokens there as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from ascend_gdn.attention.batch_split import BatchSplit, Requests
from ascend_gdn.attention.chunk_plan import HostTables
from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.pool import Slot


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


def fill_context_parallel(tables: HostTables, split: ContextParallelSplit) -> None:
    """Write the tables of a step with prefills, but for where their states are."""
    count, own = len(split.prefills), split.own_prefills
    history = len(tables["conv_last_rows"]) // len(tables["own_prefills"])
    tables["shared_has_initial_state"][:count] = split.prefills.context_lens > 0
    tables["own_prefills"][: len(own)] = own
    ends = split.num_decodes + np.cumsum(split.shares[:, split.rank])
    last = (ends[:, None] + np.arange(-history, 0)).clip(0, max(split.num_tokens - 1, 0))
    starts = np.zeros((count, split.shares.shape[1] + 1), dtype=np.int64)
    np.cumsum(split.shares, axis=1, out=starts[:, 1:])
    for name, rows in (
        ("conv_last_rows", last),
        ("conv_past_rows", _rows_before(starts[:, split.rank], starts, history)),
        ("conv_final_rows", _rows_before(starts[:, -1], starts, history)),
    ):
        tables[name][: count * history] = rows.ravel()


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


def tables_of(slot: Slot, split: ContextParallelSplit, group: int) -> ContextParallelTables:
    """Name the device views of a step's tables, for the layers of ``group``."""
    count, own = len(split.prefills), split.num_prefills
    rows = count * slot.layout.conv_history
    return ContextParallelTables(
        state_indices=slot.group_rows("shared_state_indices", count)[group],
        has_initial_state=slot.rows("shared_has_initial_state", count),
        conv_last_rows=slot.rows("conv_last_rows", rows),
        conv_past_rows=slot.rows("conv_past_rows", rows),
        conv_final_rows=slot.rows("conv_final_rows", rows),
        own_prefills=None if own == count else slot.rows("own_prefills", own),
    )
