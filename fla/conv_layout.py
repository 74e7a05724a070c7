# SPDX-License-Identifier: Apache-2.0
"""The borders of a step's prefill sequences, as indices for the causal convolution on CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


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
