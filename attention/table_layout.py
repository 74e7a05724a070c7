# SPDX-License-Identifier: Apache-2.0
"""The tables of a step: what each is, and where it lies in one packed buffer.

``TABLES`` is the only place that says so. Sizes, order, views and padding follow from it; a new
table is a row here, what fills it in ``step.py``, and what reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np
import torch

CHUNK_SIZE = 64
"""Tokens a chunk: ``FLA_CHUNK_SIZE`` in vllm/model_executor/layers/fla/ops/utils.py (0.23.0)."""

LARGE_BLOCK_SIZE = 608 * 2
"""Tokens a block of ``solve_tril``: ``_GDN_SOLVE_TRIL_LARGE_BLOCK_SIZE`` in
vllm_ascend/ops/gdn_attn_builder.py (0.23.0)."""

_CUMSUM_WORKING_SET = 2**18
_ALIGNMENT = 16  # int32 elements: every table starts on its own 64-byte line


def cumsum_block_size(num_value_heads: int) -> int:
    """Tokens a block of ``chunk_local_cumsum`` for ``num_value_heads`` value heads a rank.

    The next power of two of ``2**18 // (heads * 64)``, at least 1, as
    vllm_ascend/ops/triton/fla/cumsum.py (0.23.0) computes it.
    """
    chunks = max(1, _CUMSUM_WORKING_SET // (num_value_heads * CHUNK_SIZE))
    return 1 << (chunks - 1).bit_length()


def max_rows(num_seqs: int, num_tokens: int, block_size: int) -> int:
    """Most (sequence, block) rows of up to ``num_seqs`` sequences, ``num_tokens`` in all.

    One row a sequence, then one more for every ``block_size`` further tokens.
    """
    seqs = min(num_seqs, num_tokens)
    return seqs + (num_tokens - seqs) // block_size


@dataclass(frozen=True)
class Table:
    """One table, at the size of the largest step."""

    name: str
    shape: Callable[[TableLayout], tuple[int, ...]]
    """Empty where a configuration has no such table."""
    readers: str
    dtype: torch.dtype = torch.int32
    padding: Callable[[TableLayout], object] = lambda layout: 0
    """What rows past a step's own hold. 0 is also the null block: NULL_BLOCK_ID in
    vllm/v1/attention/backends/utils.py (0.23.0)."""


def _blocks_of(size: Callable[[TableLayout], int]) -> Callable[[TableLayout], tuple[int, ...]]:
    """[rows, 2]: (sequence, block of so many tokens)."""
    return lambda t: (max_rows(t.prefills, t.max_tokens * t.has_prefills, size(t)), 2)


def _past_the_capacity(layout: TableLayout) -> object:
    """(sequence, block) rows name the sequence past the capacity, which is always empty."""
    return layout.max_seqs, 0


TABLES = (
    # The chunk tables first: where the device makes them, a step does not send them.
    Table("chunk_indices_chunk64", _blocks_of(lambda t: CHUNK_SIZE), "chunk kernels: all",
          padding=_past_the_capacity),
    Table("chunk_indices_large_block", _blocks_of(lambda t: LARGE_BLOCK_SIZE),
          "Ascend: solve_tril", padding=_past_the_capacity),
    Table("block_indices_cumsum", _blocks_of(lambda t: t.cumsum_block),
          "Ascend: chunk_local_cumsum", padding=_past_the_capacity),
    Table("final_chunk_indices_chunk64", lambda t: (t.prefills,), "Ascend: chunk_o_update"),
    # These three side by side: ``prefill_offsets``. Offsets repeat their last value, so that
    # sequences past the last are empty: one more than the sequences need is the one that is always.
    Table("chunk_offsets_chunk64", lambda t: t.offsets(t.prefills), "chunk_delta_h: CPU, CUDA"),
    Table("update_chunk_offsets_chunk64", lambda t: t.offsets(t.prefills), "Ascend: hupdate"),
    Table("cu_seqlens", lambda t: t.offsets(t.prefills), "chunk kernels: all"),
    Table("query_start_loc", lambda t: (t.max_seqs + 2,), "convolution, decodes: all"),
    Table("has_initial_state", lambda t: (t.prefills,), "convolution, prefill: all", torch.bool),
    Table("spec_query_start_loc", lambda t: t.offsets(t.verifying), "speculative: all"),
    # Start, then the length of each request.
    Table("spec_actual_seq_lengths", lambda t: (t.verifying + (t.verifying > 0),),
          "Ascend: recurrent_gated_delta_rule"),
    Table("num_accepted_tokens", lambda t: (t.verifying,), "speculative: all",
          padding=lambda t: 1),
    Table("spec_sequence_masks", lambda t: (t.verifying,), "vLLM's layers", torch.bool),
    # Prefill context parallelism: ``ContextParallelTables``.
    Table("shared_state_indices", lambda t: (t.num_groups, t.shared), "Ascend: context_parallel"),
    Table("shared_has_initial_state", lambda t: (t.shared,), "the same", torch.bool),
    Table("own_prefills", lambda t: (t.shared,), "the same"),
    Table("conv_last_rows", lambda t: (t.shared * t.conv_history,), "the same"),
    Table("conv_past_rows", lambda t: (t.shared * t.conv_history,), "the same"),
    Table("conv_final_rows", lambda t: (t.shared * t.conv_history,), "the same"),
    # Large with many groups: ``GROUP_TABLES``.
    Table("state_indices", lambda t: (t.num_groups, t.max_seqs), "convolution, decodes: all"),
    Table("prefill_state_indices", lambda t: (t.num_groups, t.prefills),
          "prefill: all; indexing takes int64 without converting it in every layer", torch.int64),
    Table("spec_state_indices", lambda t: (t.num_groups, t.verifying, t.num_spec + 1),
          "speculative: all"),
    # Last what grows with the tokens: a step sends it as far as it fills it.
    Table("token_indx", lambda t: (t.max_tokens * (t.num_spec > 0),), "speculative: all"),
)  # fmt: skip

GROUP_TABLES = "state_indices", "prefill_state_indices", "spec_state_indices"
"""[groups, requests, ...]: up to 1 MB with 48 groups, nearly all padding. A slot keeps that."""


@dataclass(frozen=True)
class TableLayout:
    """Fixed places of a step's tables in one packed int32 buffer, sized for the largest step.

    Addresses depend on the configuration alone, never on the step, and every row is defined.

    Args:
        max_seqs: Most sequences a step (``max_num_seqs``).
        max_tokens: Most tokens a step (``max_num_batched_tokens``).
        num_groups: KV cache groups of GDN layers; each has state indices of its own.
        cumsum_block: Tokens a block of ``chunk_local_cumsum``.
        num_spec: Speculative tokens a request; 0 without speculative decoding.
        has_prefills: Whether there are tables of prefills.
        conv_history: Inputs that a convolution looks back at, under prefill context parallelism;
            0 without.
    """

    max_seqs: int
    max_tokens: int
    num_groups: int
    cumsum_block: int
    num_spec: int = 0
    has_prefills: bool = True
    conv_history: int = 0

    def without_prefills(self, max_rows: int) -> TableLayout:
        """Layout of the steps without prefills, of up to ``max_rows`` requests and tokens."""
        return replace(
            self,
            max_seqs=max_rows,
            max_tokens=max_rows,
            has_prefills=False,
            conv_history=0,
        )

    @property
    def prefills(self) -> int:
        """Most prefills a step."""
        return self.max_seqs * self.has_prefills

    @property
    def verifying(self) -> int:
        """Most requests a step that verify drafts."""
        return self.max_seqs * (self.num_spec > 0)

    @property
    def shared(self) -> int:
        """Most prefills a step that the ranks have a part of each."""
        return self.max_seqs * (self.conv_history > 0)

    def offsets(self, seqs: int) -> tuple[int]:
        """The shape of offsets of up to ``seqs`` sequences and the always empty one."""
        return (seqs + 2 * (seqs > 0),)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """int32 elements of each table, in the order of the buffer."""
        return {
            table.name: -(-prod(table.shape(self)) * table.dtype.itemsize // 4) for table in TABLES
        }

    @cached_property
    def places(self) -> dict[str, slice]:
        """Slice of the packed buffer that each table owns."""
        places, start = {}, 0
        for name, size in self.sizes.items():
            places[name] = slice(start, start + size)
            start += -(-size // _ALIGNMENT) * _ALIGNMENT
        return places

    @cached_property
    def num_elements(self) -> int:
        """int32 elements of the packed buffer."""
        return sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in self.sizes.values())

    @cached_property
    def num_chunk_tables(self) -> int:
        """Elements of the tables that a kernel can make of ``cu_seqlens`` on the device."""
        return self.places["cu_seqlens"].start

    @cached_property
    def num_fixed(self) -> int:
        """Elements that every step fills and sends, or those of them after chunk tables."""
        return self.places["token_indx"].start

    @cached_property
    def num_padded(self) -> int:
        """Elements before ``GROUP_TABLES``: padding, before a step fills them."""
        return self.places[GROUP_TABLES[0]].start

    @cached_property
    def padding(self) -> np.ndarray:
        """[num_padded] int32, read-only: those of a step without requests."""
        buffer = torch.zeros(self.num_elements, dtype=torch.int32)
        views = self.host_views(buffer)
        for table in TABLES:
            views[table.name][...] = table.padding(self)
        return _read_only(buffer.numpy()[: self.num_padded])

    @cached_property
    def arange(self) -> np.ndarray:
        """0, 1, 2, … long enough for every table; read-only."""
        return _read_only(np.arange(max(self.sizes.values()), dtype=np.int32))

    def views(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tables in ``buffer`` ([num_elements] int32, any device), each in its own shape."""
        return {
            table.name: buffer[self.places[table.name]].view(table.dtype)[: prod(shape)].view(shape)
            for table in TABLES
            for shape in (table.shape(self),)
        }

    def host_views(self, buffer: torch.Tensor) -> dict[str, np.ndarray]:
        """The same of a buffer on the host, to write.

        With ``prefill_offsets`` [3, max_seqs + 2]: once more ``chunk_offsets_chunk64``,
        ``update_chunk_offsets_chunk64`` and ``cu_seqlens``, to be written together.
        """
        views = {name: view.numpy() for name, view in self.views(buffer).items()}
        first, last = self.places["chunk_offsets_chunk64"], self.places["cu_seqlens"]
        size, apart = last.stop - last.start, (last.start - first.start) // 2
        views["prefill_offsets"] = buffer[first.start :].as_strided((3, size), (apart, 1)).numpy()
        return views


def _read_only(values: np.ndarray) -> np.ndarray:
    values.setflags(write=False)
    return values
