# SPDX-License-Identifier: Apache-2.0
"""The contract of the GDN prefill path: what the builder promises and the kernels rely on.

The tables of one step live in one slot of the buffer pool and are valid until that slot is taken
again. Every layer starts with ``step_metadata.require_step_metadata``, which ends in
:func:`require_prefill_meta`: what comes after it need not ask again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from ascend_gdn.attention.chunk_plan import TableRows
from ascend_gdn.attention.errors import FOREIGN_BUILDER, GDNContractError
from ascend_gdn.attention.pool import Slot
from ascend_gdn.attention.table_layout import CHUNK_SIZE

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class GDNChunkedPrefillMetadata:
    """Chunk tables of the prefill sequences of one step, shared by all KV cache groups.

    N sequences (none of zero length), T tokens, NC chunks of 64. All tensors are int32, contiguous,
    on the model's device, views of one packed buffer. Values equal those of the ``prepare_*``
    helpers of vllm_ascend/ops/triton/fla/utils.py (0.23.0) on the same ``cu_seqlens``.
    """

    cu_seqlens: torch.Tensor
    """[N + 1]: where each sequence starts in the prefill tokens; starts at 0, ends at T."""
    chunk_indices_chunk64: torch.Tensor
    """[NC, 2]: (sequence, chunk within the sequence)."""
    chunk_offsets_chunk64: torch.Tensor
    """[N + 1]: number of chunks before each sequence."""
    update_chunk_offsets_chunk64: torch.Tensor
    """[N + 1]: the same with one more row a sequence, as context-parallel updates are stored."""
    final_chunk_indices_chunk64: torch.Tensor
    """[N]: last row of each sequence in that storage."""
    chunk_indices_large_block: torch.Tensor
    """[NL, 2]: (sequence, block) for blocks of 1216 tokens."""
    block_indices_cumsum: torch.Tensor
    """[NB, 2]: (sequence, block) for the blocks of ``chunk_local_cumsum``."""
    cu_seqlens_cpu: np.ndarray
    """[N + 1] int32, on the host: the same values as ``cu_seqlens``."""
    chunk_indices_chunk64_cpu: np.ndarray
    """[NC, 2] int32, on the host: the same values as ``chunk_indices_chunk64``."""

    def __post_init__(self) -> None:
        for name, table in self.__dict__.items():
            if table is None:
                raise self._error(name, "None", "a table", "a builder that left it out")
        lengths = self.cu_seqlens_cpu[1:] - self.cu_seqlens_cpu[:-1]
        seqs, chunks = len(lengths), int(np.add.reduce((lengths + (CHUNK_SIZE - 1)) >> 6))
        for table, expected in (
            (self.cu_seqlens, seqs + 1),
            (self.chunk_indices_chunk64, chunks),
            (self.chunk_indices_chunk64_cpu, chunks),
            (self.chunk_offsets_chunk64, seqs + 1),
            (self.update_chunk_offsets_chunk64, seqs + 1),
            (self.final_chunk_indices_chunk64, seqs),
        ):
            if table.shape[0] != expected:
                raise self._error(
                    next(name for name, value in self.__dict__.items() if value is table),
                    f"{table.shape[0]} rows",
                    f"{expected} rows, for {seqs} sequences of together {self.num_tokens} tokens",
                    "tables and cu_seqlens of different steps put together",
                )

    @classmethod
    def over(cls, slot: Slot, seqs: int, rows: TableRows) -> Self:
        """The tables of ``seqs`` prefills in ``slot``, of so many rows."""
        tables, host = slot.device_tables, slot.host_tables
        return cls(
            cu_seqlens=slot.rows("cu_seqlens", seqs + 1),
            chunk_indices_chunk64=tables["chunk_indices_chunk64"][: rows.chunk64],
            chunk_offsets_chunk64=slot.rows("chunk_offsets_chunk64", seqs + 1),
            update_chunk_offsets_chunk64=slot.rows("update_chunk_offsets_chunk64", seqs + 1),
            final_chunk_indices_chunk64=slot.rows("final_chunk_indices_chunk64", seqs),
            chunk_indices_large_block=tables["chunk_indices_large_block"][: rows.large_block],
            block_indices_cumsum=tables["block_indices_cumsum"][: rows.cumsum],
            cu_seqlens_cpu=host["cu_seqlens"][: seqs + 1],
            chunk_indices_chunk64_cpu=host["chunk_indices_chunk64"][: rows.chunk64],
        )

    @staticmethod
    def _error(field: str, found: str, expected: str, cause: str) -> GDNContractError:
        return GDNContractError(
            layer="GDNChunkedPrefillMetadata",
            field=field,
            found=found,
            expected=expected,
            cause=cause,
        )

    @property
    def num_seqs(self) -> int:
        return len(self.cu_seqlens_cpu) - 1

    @cached_property
    def num_tokens(self) -> int:
        return int(self.cu_seqlens_cpu[-1])

    @cached_property
    def lengths(self) -> torch.Tensor:
        """[N] int32, on the device: tokens of each sequence. Made at most once a step."""
        return torch.diff(self.cu_seqlens)

    @cached_property
    def cu_seqlens_host(self) -> tuple[int, ...]:
        """``cu_seqlens`` as AscendC operators take it. Made at most once a step."""
        return tuple(self.cu_seqlens_cpu.tolist())

    @cached_property
    def chunk_indices_chunk64_host(self) -> tuple[int, ...]:
        """``chunk_indices_chunk64``, flat, as they take it. Made at most once a step."""
        return tuple(self.chunk_indices_chunk64_cpu.ravel().tolist())


@dataclass(frozen=True, eq=False)
class GDNCausalConv1dHostMetadata:
    """Host arguments of the causal convolution over the prefill sequences, one KV cache group.

    Made from the runner's host block table and lengths: nothing is copied back from the device.
    """

    query_start_loc_cpu: np.ndarray
    """[N + 1] int32: where each sequence starts in the prefill tokens."""
    cache_indices_cpu: np.ndarray
    """[N] int32: state block of each sequence in this group's cache."""
    has_initial_state_cpu: np.ndarray
    """[N] bool: whether tokens of the sequence were computed in earlier steps."""


@dataclass(eq=False)  # not frozen: a step makes one a group, which takes a quarter of the time
class GDNPrefillFallbackMeta:
    """What a GDN layer's prefill needs of its step."""

    chunk: GDNChunkedPrefillMetadata
    slot: Slot
    """Where the tables live."""
    generation: int
    """The slot's generation when the tables were written."""
    group: int
    """The layer's KV cache group, among those of GDN layers."""
    num_decodes: int
    """Sequences before the prefills."""

    @cached_property
    def causal_conv1d(self) -> GDNCausalConv1dHostMetadata:
        """Of the layer's group. Made when first read."""
        tables, first = self.slot.host_tables, self.num_decodes
        prefills = slice(first, first + self.chunk.num_seqs)
        return GDNCausalConv1dHostMetadata(
            query_start_loc_cpu=self.chunk.cu_seqlens_cpu,
            cache_indices_cpu=tables["state_indices"][self.group, prefills],
            has_initial_state_cpu=tables["has_initial_state"][prefills],
        )


def require_prefill_meta(
    meta: GDNPrefillFallbackMeta | None, *, layer: str, num_tokens: int, num_seqs: int
) -> None:
    """Check that ``meta`` belongs to this step and fits its prefills.

    Args:
        meta: What the step's attention metadata carries for ``layer``.
        layer: Name of the layer that asks.
        num_tokens: Prefill tokens of the step.
        num_seqs: Prefill sequences of the step.

    Raises:
        GDNContractError: the meta is missing, of an earlier step, or of another batch.
    """
    field = "non_spec_prefill_fallback_meta"
    if meta is None:
        raise GDNContractError(
            layer=layer,
            field=field,
            found="None",
            expected=f"metadata of {num_seqs} prefill sequences",
            cause=FOREIGN_BUILDER,
        )
    if meta.slot.generation != meta.generation:
        raise GDNContractError(
            layer=layer,
            field=f"{field}.generation",
            found=f"slot generation {meta.slot.generation}",
            expected=f"{meta.generation}, that of the metadata",
            cause="metadata of an earlier step: its slot was taken again; do not keep attention "
            "metadata across steps",
        )
    if meta.chunk.num_tokens != num_tokens or meta.chunk.num_seqs != num_seqs:
        raise GDNContractError(
            layer=layer,
            field=f"{field}.chunk.cu_seqlens",
            found=f"{meta.chunk.num_seqs} sequences, {meta.chunk.num_tokens} tokens",
            expected=f"{num_seqs} sequences, {num_tokens} tokens",
            cause="the batch was changed after its metadata was built; padding is the builder's",
        )
