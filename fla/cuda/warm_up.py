# SPDX-License-Identifier: Apache-2.0
"""Tables of prefills that are nobody's: kernels are compiled and tuned over them at start-up."""

from __future__ import annotations

import numpy as np
import torch

from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.attention.table_layout import CHUNK_SIZE


def dummy_prefills(
    seqs: int, device: torch.device
) -> tuple[GDNChunkedPrefillMetadata, torch.Tensor, torch.Tensor]:
    """The tables of ``seqs`` prefills of one chunk each, all with their states in block 0.

    Each table is at 16 bytes, as those of a step's buffer are: Triton would compile for another.

    Returns:
        Of the step; [seqs] int64, the block of each state; [seqs] bool, that it goes on from it.
    """
    counts, zeros = np.arange(seqs + 1, dtype=np.int32), np.zeros(seqs, np.int32)
    starts, indices = counts * CHUNK_SIZE, np.stack([counts[:-1], zeros], 1)
    cu_seqlens, offsets, rows = (
        torch.from_numpy(table).to(device) for table in (starts, counts, indices)
    )
    chunk = GDNChunkedPrefillMetadata(
        cu_seqlens, rows, offsets, offsets, offsets[:seqs], rows, rows, starts, indices
    )
    return chunk, torch.zeros(seqs, dtype=torch.int64, device=device), offsets[:seqs] >= 0
