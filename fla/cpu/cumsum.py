# SPDX-License-Identifier: Apache-2.0
"""Decay within chunks: running sums of the log decay, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ascend_gdn.attention.cpu_layouts import ChunkPart


@dataclass(frozen=True, eq=False)
class ChunkDecay:
    """What is left of a token's share after later tokens of its chunk. Factors in 0..1, float32.

    Powers of two, since ``exp2`` takes half the time of ``exp`` on CPU. No exponent is positive, so
    strong decay underflows to zero and never overflows.
    """

    from_start: torch.Tensor
    """[NC, Hv, C]: from the chunk's start to each token; the last is the whole chunk's."""
    to_end: torch.Tensor
    """[NC, Hv, C]: from each token to the chunk's end."""
    pairwise: torch.Tensor
    """[NC, Hv, C, C]: from token j to token i at [i, j], j <= i. Meaningless above the diagonal."""


def chunk_local_cumsum(g: torch.Tensor, part: ChunkPart) -> ChunkDecay:
    """Sum the log decay from each chunk's start.

    Args:
        g: [T, Hv] float32, CPU: log decay of each token, at most 0. Padding decays nothing.
        part: The NC chunks to make it for.
    """
    log2_decay = part.gather_gate(g).mul_(math.log2(math.e)).cumsum(-1)
    to_end = (log2_decay[..., -1:] - log2_decay).exp2_()
    pairwise = log2_decay.unsqueeze(-1) - log2_decay.unsqueeze(-2)
    return ChunkDecay(log2_decay.exp2(), to_end, pairwise.clamp_max_(0.0).exp2_())
