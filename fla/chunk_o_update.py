# SPDX-License-Identifier: Apache-2.0
"""Prefill context parallelism: correct a rank's chunks once the state before them is known.

What the contract's ``update_`` and ``final_`` tables are for, in plain PyTorch. The NPU worker runs
vLLM-Ascend's kernel over them (``ascend/context_parallel.py``); the CPU worker has one rank.
"""

from __future__ import annotations

import torch

from ascend_gdn.fla.chunk_layout import ChunkLayout


def chunk_fwd_o_update(
    h: torch.Tensor,
    v_new: torch.Tensor,
    w: torch.Tensor,
    h_update: torch.Tensor,
    updated_h_state: torch.Tensor,
    layout: ChunkLayout,
    update_chunk_offsets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what h and v_new would be had the rank started from another state.

    Args:
        h: [NC, Hv, K, V]: states before each chunk, from the state the rank did start from.
        v_new: [NC, Hv, C, V], likewise.
        w: [NC, Hv, C, K].
        h_update: [NC + N, Hv, K, K] float32, of
            :func:`~ascend_gdn.fla.chunk_delta_hupdate.chunk_gated_delta_rule_fwd_hupdate`.
        updated_h_state: [N, Hv, K, V] float32: the right state before the rank's tokens, less the
            one it started from.
        layout: Gives the sequence of each row.
        update_chunk_offsets: [N + 1]: ``update_chunk_offsets_chunk64`` of the contract.

    Returns:
        h and v_new, corrected, new tensors of the same shapes and dtypes.
    """
    reach = h_update[layout.update_rows(update_chunk_offsets)]
    correction = torch.matmul(reach, updated_h_state[layout.seq_of_row])
    v_correction = torch.matmul(w.float(), correction)
    return (h + correction).to(h.dtype), (v_new - v_correction).to(v_new.dtype)


def final_state_update(
    final_state: torch.Tensor,
    h_update: torch.Tensor,
    updated_h_state: torch.Tensor,
    final_chunk_indices: torch.Tensor,
) -> torch.Tensor:
    """Return the rank's ``final_state`` [N, Hv, K, V] float32 corrected in the same way.

    ``final_chunk_indices`` [N] is ``final_chunk_indices_chunk64`` of the contract; the others are
    those of :func:`chunk_fwd_o_update`.
    """
    return final_state + torch.matmul(h_update[final_chunk_indices.long()], updated_h_state)
