# SPDX-License-Identifier: Apache-2.0
"""Where the tables of a step lie in one packed buffer, on the host and on the device alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
import torch

from ascend_gdn.attention.metadata import CHUNK_SIZE, LARGE_BLOCK_SIZE

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
class TableLayout:
    """Fixed places of a step's tables in one packed int32 buffer, sized for the largest step.

    Addresses depend on the configuration alone, never on the step. Rows past a step's own are
    defined: offsets repeat their last value, so that sequences past the last are empty; (sequence,
    block) rows name the sequence past the capacity, which is always empty; state indices are the
    null block; accepted counts are 1.

    Args:
        max_seqs: Most sequences a step (``max_num_seqs``).
        max_tokens: Most tokens a step (``max_num_batched_tokens``).
        num_groups: KV cache groups of GDN layers; each has state indices of its own.
        cumsum_block: Tokens a block of ``chunk_local_cumsum``.
        num_spec: Speculative tokens a request; 0 without speculative decoding.
        has_prefills: Whether there are tables of prefills.
        conv_block: Tokens a program of the causal convolution's kernel takes; 0 where the kernel
            needs no table of them.
        conv_history: Inputs that a convolution looks back at, under prefill context parallelism;
            0 without.
    """

    max_seqs: int
    max_tokens: int
    num_groups: int
    cumsum_block: int
    num_spec: int = 0
    has_prefills: bool = True
    conv_block: int = 0
    conv_history: int = 0

    def without_prefills(self, max_rows: int) -> TableLayout:
        """Layout of the steps without prefills, of up to ``max_rows`` requests and tokens."""
        return replace(
            self,
            max_seqs=max_rows,
            max_tokens=max_rows,
            has_prefills=False,
            conv_block=0,
            conv_history=0,
        )

    @cached_property
    def sizes(self) -> dict[str, int]:
        """int32 elements of each table, in the order of the buffer."""
        seqs, tokens = self.max_seqs, self.max_tokens
        offsets = seqs + 2  # one more than the sequences need: the empty one that padding names
        flags = -(-seqs // 4)  # one byte a sequence
        spec, chunked = self.num_spec > 0, self.has_prefills
        conv_rows = max_rows(seqs, tokens, self.conv_block) if self.conv_block else 0
        return {
            # The chunk tables first: where the device makes them, a step does not send them.
            "chunk_indices_chunk64": 2 * max_rows(seqs, tokens, CHUNK_SIZE) * chunked,
            "chunk_indices_large_block": 2 * max_rows(seqs, tokens, LARGE_BLOCK_SIZE) * chunked,
            "block_indices_cumsum": 2 * max_rows(seqs, tokens, self.cumsum_block) * chunked,
            "final_chunk_indices_chunk64": seqs * chunked,
            # These three side by side: ``Tables.prefill_offsets``.
            "chunk_offsets_chunk64": offsets * chunked,
            "update_chunk_offsets_chunk64": offsets * chunked,
            "cu_seqlens": offsets * chunked,
            "query_start_loc": offsets,
            "has_initial_state": flags * chunked,
            "state_indices": self.num_groups * seqs,
            "prefill_state_indices": 2 * self.num_groups * seqs * chunked,
            "spec_query_start_loc": offsets * spec,
            "spec_actual_seq_lengths": (seqs + 1) * spec,
            "num_accepted_tokens": seqs * spec,
            "spec_sequence_masks": flags * spec,
            "spec_state_indices": self.num_groups * seqs * (self.num_spec + 1) * spec,
            "context_parallel": self.num_context_parallel,
            # Last those that grow with the tokens: a step sends them as far as it fills them.
            "batch_ptr": conv_rows,
            "token_chunk_offset_ptr": conv_rows,
            "token_indx": tokens * spec,
        }

    @property
    def num_context_parallel(self) -> int:
        """Elements of what attention/context_parallel.py adds: a group's state indices each, two
        more rows of ``max_seqs``, and three for each input that a convolution looks back at."""
        if self.conv_history == 0:
            return 0
        return (self.num_groups + 2 + 3 * self.conv_history) * self.max_seqs

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
        """Elements before ``cu_seqlens``: all that is made from it."""
        return self.places["cu_seqlens"].start

    @cached_property
    def num_fixed(self) -> int:
        """Elements that every step fills and sends, or those of them after chunk tables."""
        return self.places["batch_ptr"].start

    @cached_property
    def padding(self) -> np.ndarray:
        """[num_fixed] int32, read-only: the buffer of a step without requests."""
        # 0 is also the null block: NULL_BLOCK_ID in vllm/v1/attention/backends/utils.py (0.23.0).
        values = np.zeros(self.num_elements, dtype=np.int32)
        for name in ("chunk_indices_chunk64", "chunk_indices_large_block", "block_indices_cumsum"):
            values[self.places[name]][::2] = self.max_seqs
        values[self.places["num_accepted_tokens"]] = 1
        return _read_only(values[: self.num_fixed])

    @cached_property
    def arange(self) -> np.ndarray:
        """0, 1, 2, … long enough for every table; read-only."""
        return _read_only(np.arange(max(self.sizes.values()), dtype=np.int32))


def _read_only(values: np.ndarray) -> np.ndarray:
    values.setflags(write=False)
    return values


Array = TypeVar("Array", np.ndarray, torch.Tensor)
Other = TypeVar("Other", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class Tables(Generic[Array]):
    """Views of one packed buffer, a table each, at the size of the largest step.

    On the host they are numpy arrays to write, on the device tensors to read.
    """

    cu_seqlens: Array
    chunk_indices_chunk64: Array
    chunk_offsets_chunk64: Array
    update_chunk_offsets_chunk64: Array
    final_chunk_indices_chunk64: Array
    chunk_indices_large_block: Array
    block_indices_cumsum: Array
    query_start_loc: Array
    has_initial_state: Array
    """bool"""
    state_indices: Array
    """[groups, max_seqs]"""
    prefill_state_indices: Array
    """[groups, max_seqs] int64, which indexing takes without converting it in every layer."""
    spec_query_start_loc: Array
    spec_actual_seq_lengths: Array
    """Start, then the length of each request: what AscendC's recurrent operator takes."""
    num_accepted_tokens: Array
    spec_sequence_masks: Array
    """bool"""
    spec_state_indices: Array
    """[groups, max_seqs, num_spec + 1]"""
    context_parallel: Array
    """What attention/context_parallel.py lays out; empty without."""
    batch_ptr: Array
    """Sequence of each of the convolution's programs."""
    token_chunk_offset_ptr: Array
    """Which of that sequence's blocks it takes."""
    token_indx: Array
    prefill_offsets: Array
    """[3, max_seqs + 2]: once more ``chunk_offsets_chunk64``, ``update_chunk_offsets_chunk64`` and
    ``cu_seqlens``, to be written together."""

    @staticmethod
    def over(buffer: torch.Tensor, layout: TableLayout) -> Tables[torch.Tensor]:
        """Lay the tables over ``buffer`` ([layout.num_elements] int32, any device)."""
        views = {name: buffer[place] for name, place in layout.places.items()}
        for name in ("chunk_indices_chunk64", "chunk_indices_large_block", "block_indices_cumsum"):
            views[name] = views[name].view(-1, 2)
        for name in ("has_initial_state", "spec_sequence_masks"):
            views[name] = views[name].view(torch.bool)
        views["state_indices"] = views["state_indices"].view(layout.num_groups, -1)
        views["prefill_state_indices"] = (
            views["prefill_state_indices"].view(torch.int64).view(layout.num_groups, -1)
        )
        views["spec_state_indices"] = views["spec_state_indices"].view(
            layout.num_groups, -1, layout.num_spec + 1
        )
        first, last = layout.places["chunk_offsets_chunk64"], layout.places["cu_seqlens"]
        size, apart = last.stop - last.start, (last.start - first.start) // 2
        views["prefill_offsets"] = buffer[first.start :].as_strided((3, size), (apart, 1))
        return Tables(**views)

    def map(self, function: Callable[[Array], Other]) -> Tables[Other]:
        """Apply ``function`` to each table."""
        return Tables(**{field.name: function(self.__dict__[field.name]) for field in fields(self)})
