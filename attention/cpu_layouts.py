# SPDX-License-Identifier: Apache-2.0
"""The chunk tables of a step as gather indices, for the PyTorch kernels on CPU.

Made at most once a step (``attention/cpu.py``) and read by every layer, so whatever does not depend
on the layer is computed here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

_SHORT_WIDTHS = (16, 32)
"""Places a chunk where no sequence is longer: short prompts need not pay for 64 tokens each."""


@dataclass(frozen=True, eq=False)
class ConvLayout:
    """Where a causal convolution of width W crosses the borders of N sequences. CPU tensors, int64.

    Between borders the convolution is one pass over all T tokens; only the first W - 1 tokens of a
    sequence look into its state. ``edge`` is the [N, 2 (W - 1)] window of a sequence: its state,
    then its first W - 1 tokens.
    """

    head_tokens: torch.Tensor
    """[N * (W - 1)]: the first W - 1 tokens of each sequence, clamped to its last one."""
    head_rows: torch.Tensor | None
    """[H]: entries of ``head_tokens`` that are not clamped repeats; None where all are real."""
    tail_tokens: torch.Tensor
    """[N * (W - 1)]: the last W - 1 tokens of each sequence, clamped to its first one."""
    short_rows: torch.Tensor | None
    """[S * (W - 1)]: rows of the flattened new state that need ``edge``, since their sequence is
    shorter than W - 1; None where no sequence is."""
    short_edges: torch.Tensor | None
    """[S * (W - 1)]: the row of the flattened ``edge`` that each of them takes."""

    @staticmethod
    def from_bounds(starts: np.ndarray, ends: np.ndarray, width: int) -> ConvLayout:
        """Make it for ``starts`` and ``ends`` ([N] int64, host) and a kernel of ``width`` taps."""
        reach = width - 1
        lengths = ends - starts
        step = np.arange(reach)
        head = np.minimum(starts[:, None] + step, ends[:, None] - 1).reshape(-1)
        tail = np.maximum(ends[:, None] - reach + step, starts[:, None]).reshape(-1)
        short = np.flatnonzero(lengths < reach)
        head_rows = short_rows = short_edges = None
        if short.size:
            head_rows = torch.from_numpy(np.flatnonzero(step < lengths[:, None]))
            short_rows = torch.from_numpy((short[:, None] * reach + step).reshape(-1))
            edge = short[:, None] * 2 * reach + lengths[short, None] + step
            short_edges = torch.from_numpy(edge.reshape(-1))
        return ConvLayout(
            torch.from_numpy(head), head_rows, torch.from_numpy(tail), short_rows, short_edges
        )


@dataclass(frozen=True, eq=False)
class ChunkPart:
    """Some whole waves of a :class:`ChunkLayout`: n chunks that are worked off at once."""

    rows: slice
    """Their rows in the layout."""
    num_chunks: int
    chunk_size: int
    wave_sizes: tuple[int, ...]
    """Chunks in each wave, which are those of the first so many sequences of ``seq_order``."""
    places: slice
    """Their places in the layout, which are tokens where ``token_index`` is None."""
    token_index: torch.Tensor | None
    """[n * C]: token of each place, or None."""
    padding: torch.Tensor | None
    """[n, 1, C] bool: places past the end of their sequence, or None."""

    def gather_heads(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Return [n, H, C, D] contiguous: the heads of ``x`` [T, H, D] by chunk.

        ``scale`` [T, H, 1] float32 multiplies on the way, so that it costs no pass of its own.
        """
        out = x.new_empty(self.num_chunks, x.shape[1], self.chunk_size, x.shape[2])
        if scale is None:
            return out.copy_(self._by_chunk(x))
        return torch.mul(self._by_chunk(x), self._by_chunk(scale), out=out)

    def gather_gate(self, gate: torch.Tensor) -> torch.Tensor:
        """Return [n, Hv, C] float32 contiguous: ``gate`` [T, Hv] by chunk, 0 in the padding."""
        out = gate.new_empty(self.num_chunks, gate.shape[1], self.chunk_size, dtype=torch.float32)
        out.copy_(self._by_chunk(gate))
        return out if self.padding is None else out.masked_fill_(self.padding, 0.0)

    def _by_chunk(self, x: torch.Tensor) -> torch.Tensor:
        if self.token_index is None:
            x = x[self.places]
        else:
            x = x.index_select(0, self.token_index)
        return x.unflatten(0, (self.num_chunks, self.chunk_size)).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class ChunkLayout:
    """Chunks in the order in which the recurrence visits them, as indices. CPU tensors, int64.

    N sequences, T tokens, NC chunks of C tokens. Chunks are ordered in *waves*: wave t holds chunk
    t of every sequence that has one, sequences longest first. So each wave is one slice of the
    rows, its sequences are a prefix of ``seq_order``, and the kernels hold no index tables in their
    loops.
    """

    num_tokens: int
    num_seqs: int
    num_chunks: int
    chunk_size: int
    """C: places a chunk. That of the tables, or fewer where the longest sequence needs no more."""
    token_index: torch.Tensor | None
    """[NC * C]: token of each place; past a sequence's end, its own last token, so that no other
    request's values are read. None where place i holds token i: then gathers are views."""
    padding: torch.Tensor | None
    """[NC, C] bool: places past the end of their sequence; None where there are none."""
    token_rows: torch.Tensor | None
    """[T]: place of each token; None exactly where ``token_index`` is None."""
    wave_starts: tuple[int, ...]
    """Rows of wave t are ``wave_starts[t] : wave_starts[t + 1]``."""
    seq_order: torch.Tensor | None
    """[N]: sequences longest first (in chunks); None where they already are in that order."""
    starts_cpu: np.ndarray
    """[N] int64: first token of each sequence."""
    ends_cpu: np.ndarray
    """[N] int64: one past the last token of each sequence."""
    conv_layouts: dict[int, ConvLayout] = field(default_factory=dict)
    parts_by_size: dict[int, list[ChunkPart]] = field(default_factory=dict)

    @staticmethod
    def from_tables(
        cu_seqlens: torch.Tensor,
        chunk_indices: torch.Tensor,
        chunk_offsets: torch.Tensor,
        chunk_size: int,
    ) -> ChunkLayout:
        """Make the layout from the contract's tables.

        Args:
            cu_seqlens: [N + 1] int32, CPU; no sequence is empty.
            chunk_indices: [NC, 2] int32, CPU: (sequence, chunk within it).
            chunk_offsets: [N + 1] int32, CPU: number of chunks before each sequence.
            chunk_size: C, tokens a chunk.
        """
        bounds = cu_seqlens.numpy().astype(np.int64)
        starts, ends = bounds[:-1], bounds[1:]
        num_seqs, num_tokens = len(starts), int(bounds[-1])
        seq_of_chunk = chunk_indices[:, 0].numpy().astype(np.int64)
        chunk_in_seq = chunk_indices[:, 1].numpy().astype(np.int64)
        num_chunks = len(seq_of_chunk)
        longest = int((ends - starts).max())
        width = next((w for w in _SHORT_WIDTHS if longest <= w < chunk_size), chunk_size)
        chunks_per_seq = np.diff(chunk_offsets.numpy())

        longest_first = np.argsort(-chunks_per_seq, kind="stable")
        rank = np.empty(num_seqs, dtype=np.int64)
        rank[longest_first] = np.arange(num_seqs)
        by_wave = np.lexsort((rank[seq_of_chunk], chunk_in_seq))
        seq_of_row, chunk_of_row = seq_of_chunk[by_wave], chunk_in_seq[by_wave]
        waves = int(chunks_per_seq.max())
        wave_starts = np.searchsorted(chunk_of_row, np.arange(waves + 1))

        place = (starts[seq_of_row] + chunk_of_row * chunk_size)[:, None] + np.arange(width)
        seq_end = ends[seq_of_row, None]
        padded = num_tokens != num_chunks * width
        in_order = bool((by_wave == np.arange(num_chunks)).all())
        token_index = token_rows = padding = None
        if padded or not in_order:
            real = place < seq_end
            tokens = np.minimum(place, seq_end - 1)
            rows = np.empty(num_tokens, dtype=np.int64)
            rows[tokens[real]] = np.flatnonzero(real)
            token_index, token_rows = torch.from_numpy(tokens.reshape(-1)), torch.from_numpy(rows)
            if padded:
                padding = torch.from_numpy(~real)
        sorted_already = bool((rank == np.arange(num_seqs)).all())
        return ChunkLayout(
            num_tokens=num_tokens,
            num_seqs=num_seqs,
            num_chunks=num_chunks,
            chunk_size=width,
            token_index=token_index,
            padding=padding,
            token_rows=token_rows,
            wave_starts=tuple(wave_starts.tolist()),
            seq_order=None if sorted_already else torch.from_numpy(longest_first),
            starts_cpu=starts,
            ends_cpu=ends,
        )

    def parts(self, max_chunks: int) -> list[ChunkPart]:
        """Return the rows as runs of whole waves, of at most ``max_chunks`` where a wave allows.

        Worked off one after another they need less memory at a time, which then stays in cache.
        Made at most once a step for each ``max_chunks``.
        """
        if max_chunks not in self.parts_by_size:
            bounds, starts = [0], self.wave_starts
            for wave in range(1, len(starts) - 1):
                if starts[wave + 1] - starts[bounds[-1]] > max_chunks:
                    bounds.append(wave)
            bounds.append(len(starts) - 1)
            self.parts_by_size[max_chunks] = [
                self._part(first, end) for first, end in pairwise(bounds)
            ]
        return self.parts_by_size[max_chunks]

    def _part(self, first_wave: int, end_wave: int) -> ChunkPart:
        first, end = self.wave_starts[first_wave], self.wave_starts[end_wave]
        places = slice(first * self.chunk_size, end * self.chunk_size)
        return ChunkPart(
            rows=slice(first, end),
            num_chunks=end - first,
            chunk_size=self.chunk_size,
            wave_sizes=tuple(np.diff(self.wave_starts[first_wave : end_wave + 1]).tolist()),
            places=places,
            token_index=None if self.token_index is None else self.token_index[places],
            padding=None if self.padding is None else self.padding[first:end].unsqueeze(1),
        )

    def by_wave(self, states: torch.Tensor) -> torch.Tensor:
        """Return a contiguous copy of ``states`` [N, ...], sequences in ``seq_order``."""
        if self.seq_order is None:
            return states.clone(memory_format=torch.contiguous_format)
        return states.index_select(0, self.seq_order)

    def by_sequence(self, rows: torch.Tensor) -> torch.Tensor:
        """Return ``rows`` [N, ...], which are in ``seq_order``, in the order of the sequences."""
        if self.seq_order is None:
            return rows
        return torch.empty_like(rows).index_copy_(0, self.seq_order, rows)

    def by_token(self, x: torch.Tensor) -> torch.Tensor:
        """Return [T, ...]: the tokens of ``x`` [NC, C, ...], padding dropped."""
        places = x.view(-1, *x.shape[2:])
        return places if self.token_rows is None else places.index_select(0, self.token_rows)

    def conv(self, width: int) -> ConvLayout:
        """Return the borders for a convolution of ``width`` taps; made at most once a step."""
        if width not in self.conv_layouts:
            self.conv_layouts[width] = ConvLayout.from_bounds(self.starts_cpu, self.ends_cpu, width)
        return self.conv_layouts[width]
