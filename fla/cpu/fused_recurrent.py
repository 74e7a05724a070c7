# SPDX-License-Identifier: Apache-2.0
"""Gated DeltaNet decode on CPU: the recurrent form, one token a request."""

from __future__ import annotations

import torch

from ascend_gdn.fla.cpu.l2norm import l2norm_scale


def fused_recurrent_gated_delta_rule(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    scale: float,
    state: torch.Tensor,
    state_indices: torch.Tensor,
) -> torch.Tensor:
    """Advance each request's state by one token and read it.

    Args:
        q, k: [1, B, Hk, K], any floating dtype, CPU; brought to length 1 here.
        v: [1, B, Hv, V], same dtype.
        g, beta: [1, B, Hv]: log decay, and how much to overwrite.
        scale: Of the queries then.
        state: [num_blocks, Hv, K, V], any floating dtype; the named blocks are updated in place.
        state_indices: [B] integer: block of each request, all different.

    Returns:
        [1, B, Hv, V] in q's dtype. Computed in float32.
    """
    batch, key_heads, key_dim = k.shape[1:]
    value_heads, value_dim = v.shape[2:]
    q_scale = l2norm_scale(q).mul_(scale)
    # Keys and queries are the two rows of one product with the decayed state.
    qk = torch.stack((k.float() * l2norm_scale(k), q.float() * q_scale), dim=3)[0]
    qk = qk.repeat_interleave(value_heads // key_heads, dim=1).view(-1, 2, key_dim)
    blocks = state.index_select(0, state_indices).float().view(-1, key_dim, value_dim)
    blocks.mul_(g.float().exp().view(-1, 1, 1))
    key = qk[:, :1]
    read = torch.bmm(qk, blocks)
    delta = torch.addcmul(v.reshape(-1, 1, value_dim).float(), read[:, :1], read.new_tensor(-1.0))
    delta.mul_(beta.float().view(-1, 1, 1))
    blocks.baddbmm_(key.transpose(1, 2), delta)
    # q (S + k^T delta) = q S + <q, k> delta: the new state need not be read back.
    o = torch.addcmul(read[:, 1:], (qk[:, 1:] * key).sum(-1, keepdim=True), delta)
    new_blocks = blocks.view(batch, value_heads, key_dim, value_dim).to(state.dtype)
    state.index_copy_(0, state_indices.long(), new_blocks)
    return o.view(1, batch, value_heads, value_dim).to(q.dtype)
