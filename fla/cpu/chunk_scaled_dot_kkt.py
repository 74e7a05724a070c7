# SPDX-License-Identifier: Apache-2.0
"""How much each token of a chunk overwrites of what earlier tokens of it wrote."""

from __future__ import annotations

import torch

from ascend_gdn.fla.cpu.cumsum import ChunkDecay


def chunk_scaled_dot_kkt_fwd(
    k: torch.Tensor, beta: torch.Tensor, decay: ChunkDecay
) -> torch.Tensor:
    """Return A = beta_i * decay_ij * <k_i, k_j>, whose strictly lower part the solve reads.

    Args:
        k: [NC, Hk, C, K]: keys, normalised.
        beta: [NC, Hv, C] float32, 0 in the padding; value head h reads key head h // (Hv // Hk).
        decay: Of the same chunks.

    Returns:
        [NC, Hv, C, C] float32. What is on and above the diagonal means nothing.
    """
    num_chunks, key_heads, chunk, key_dim = k.shape
    flat = k.view(-1, chunk, key_dim)
    kkt = torch.bmm(flat, flat.transpose(1, 2)).view(num_chunks, key_heads, 1, chunk, chunk)
    scaled = decay.pairwise * beta.unsqueeze(-1)
    scaled.view(num_chunks, key_heads, -1, chunk, chunk).mul_(kkt)
    return scaled
