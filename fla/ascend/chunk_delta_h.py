# SPDX-License-Identifier: Apache-2.0
"""The recurrence across chunks, by AscendC's operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.attention.table_layout import CHUNK_SIZE


def chunk_gated_delta_rule_fwd_h(
    operator: Callable[..., Any],
    k: torch.Tensor,
    w: torch.Tensor,
    u: torch.Tensor,
    g: torch.Tensor,
    initial_state: torch.Tensor,
    chunk: GDNChunkedPrefillMetadata,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return h, the new values [1, Hv, T, V] and the final states [N, Hv, K, V].

    Args:
        operator: The installed version's, of ``torch.ops._C_ascend``.
        k: [1, Hk, T, K], contiguous; w: [1, Hv, T, K]; u: [1, Hv, T, V]; g: [1, Hv, T] float32.
        initial_state: [N, Hv, K, V], contiguous (the operator reads its strides before it makes a
            copy).
        chunk: The step's tables.
    """
    h, v_new, final_state = operator(
        k,
        w,
        u,
        g=g,
        initial_state=initial_state,
        output_final_state=True,
        chunk_size=CHUNK_SIZE,
        cu_seqlens=chunk.cu_seqlens_host,
        chunk_indices=chunk.chunk_indices_chunk64_host,
    )
    return h, v_new, final_state
