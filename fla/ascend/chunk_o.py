# SPDX-License-Identifier: Apache-2.0
"""Output of each chunk, by AscendC's operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.attention.table_layout import CHUNK_SIZE


def chunk_fwd_o(
    operator: Callable[..., Any],
    q: torch.Tensor,
    k: torch.Tensor,
    v_new: torch.Tensor,
    h: torch.Tensor,
    g: torch.Tensor,
    scale: float,
    out: torch.Tensor,
    chunk: GDNChunkedPrefillMetadata,
) -> None:
    """Write ``out`` [T, Hv, V]; all others have the heads before the tokens.

    Args:
        operator: The installed version's, of ``torch.ops._C_ascend``.
        q, k: [1, Hk, T, K], contiguous.
        v_new: [1, Hv, T, V].
        h: The states before each chunk, as ``chunk_gated_delta_rule_fwd_h`` returns them.
        g: [1, Hv, T] float32: the decay summed up within each chunk.
        scale: Of the queries.
        chunk: The step's tables.
    """
    o = operator(
        q,
        k,
        v_new,
        h,
        scale,
        g=g,
        cu_seqlens=chunk.cu_seqlens_host,
        chunk_indices=chunk.chunk_indices_chunk64_host,
        chunk_size=CHUNK_SIZE,
    )
    out.copy_(o.squeeze(0).transpose(0, 1))
