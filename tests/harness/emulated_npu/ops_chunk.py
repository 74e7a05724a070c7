# SPDX-License-Identifier: Apache-2.0
"""``chunk_gated_delta_rule_fwd_h`` and ``chunk_fwd_o`` of vllm-ascend: AscendC, by head.

Checks: ``csrc/torch_binding.cpp``, and ``op_host/*_def.cpp`` and ``op_host/op_api/aclnn_*.cpp`` in
``csrc/moe/chunk_gated_delta_rule_fwd_h/`` and ``csrc/moe/chunk_fwd_o/`` (0.23.0.post1). What their
kernels take for granted: ``op_kernel/arch22/gemm/block/block_scheduler_gdn_fwd_*.hpp`` there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from .checks import NARROW, require, require_dtype, require_shape
from .chunk_tables import ChunkRows, chunk_rows

FWD_H = "chunk_gated_delta_rule_fwd_h"
FWD_O = "chunk_fwd_o"
HEAD_BLOCK = 128
"""The kernels go through a value head in whole blocks of this, and leave out a rest."""


def chunk_gated_delta_rule_fwd_h(
    k: torch.Tensor,
    w: torch.Tensor,
    u: torch.Tensor,
    g: torch.Tensor | None = None,
    *,
    gk: torch.Tensor | None = None,
    initial_state: torch.Tensor | None = None,
    output_final_state: bool | None = False,
    chunk_size: int | None = None,
    save_new_value: bool | None = True,
    cu_seqlens: Sequence[int] | None = None,
    chunk_indices: Sequence[int] | None = None,
    use_exp2: bool | None = False,
    transpose_state_layout: bool | None = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The state before each chunk, and what each token adds to it.

    ``k`` [1, Hk, T, K], ``w`` [1, H, T, K], ``u`` [1, H, T, V], all of one 16-bit type; ``g``
    [1, H, T], cumulated within chunks; ``initial_state`` [N, H, K, V]. Returns ``h``
    [1, H, chunks, K, V] and the new values [1, H, T, V], as ``k``, and the final states, as
    ``initial_state``.
    """
    require(g is not None, FWD_H, "g is missing")
    require(gk is None and save_new_value, FWD_H, "gk and save_new_value=False are reserved")
    require(not use_exp2 and not transpose_state_layout, FWD_H, "a reserved option is set")
    size = 64 if chunk_size is None else chunk_size
    groups = _check_heads(FWD_H, k, u, g)
    require_shape(FWD_H, "w", w, 1, u.shape[1], k.shape[2], k.shape[3])
    for name, tensor in {"w": w, "u": u}.items():
        require_dtype(FWD_H, name, tensor, k.dtype)
    bounds, rows = _tables(FWD_H, k.shape[2], cu_seqlens, chunk_indices, size)
    # The kernel drops empty sequences, and numbers initial states without them.
    require(
        all(start < end for start, end in pairwise(bounds)),
        FWD_H,
        f"a sequence without tokens in cu_seqlens {bounds}",
    )
    sequences = len(bounds) - 1
    if initial_state is not None:
        state_shape = (sequences, u.shape[1], k.shape[3], u.shape[3])
        require_shape(FWD_H, "initial_state", initial_state, *state_shape)
        require_dtype(FWD_H, "initial_state", initial_state, torch.float32, k.dtype)

    keys = rows.gather(k[0].transpose(0, 1).float()).repeat_interleave(groups, 2)
    weights = rows.gather(w[0].transpose(0, 1).float())
    values = rows.gather(u[0].transpose(0, 1).float())
    decays = rows.gather(g[0].transpose(0, 1).float())  # [chunks, size, H]
    last = rows.valid.sum(1) - 1
    final_decay = decays[torch.arange(len(last)), last]  # [chunks, H]
    remaining = ((final_decay[:, None] - decays).exp() * rows.valid[..., None])[..., None]

    options = k if initial_state is None else initial_state
    h = torch.empty(len(last), u.shape[1], k.shape[3], u.shape[3])
    final = torch.empty(sequences, *h.shape[1:], dtype=options.dtype)
    chunk = 0
    for i in range(sequences):
        state = torch.zeros(h.shape[1:]) if initial_state is None else initial_state[i].float()
        for _ in range(-((bounds[i] - bounds[i + 1]) // size)):
            h[chunk] = state
            values[chunk] -= torch.einsum("thk,hkv->thv", weights[chunk], state)
            state = state * final_decay[chunk].exp()[:, None, None] + torch.einsum(
                "thk,thv->hkv", keys[chunk], values[chunk] * remaining[chunk]
            )
            chunk += 1
        final[i] = state
    new_values = rows.scatter(values, k.shape[2]).transpose(0, 1)[None]
    by_head = h.transpose(0, 1)[None]
    return (
        by_head.to(k.dtype).contiguous(),
        new_values.to(u.dtype).contiguous(),
        final if output_final_state else torch.empty(0),
    )


def chunk_fwd_o(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    h: torch.Tensor,
    scale: float,
    *,
    g: torch.Tensor | None = None,
    g_gamma: torch.Tensor | None = None,
    cu_seqlens: Sequence[int] | None = None,
    chunk_indices: Sequence[int] | None = None,
    chunk_size: int | None = None,
    transpose_state_layout: bool | None = False,
) -> torch.Tensor:
    """The output [1, H, T, V], as ``v``, of the states ``h`` [1, H, chunks, K, V].

    ``q``, ``k`` [1, Hk, T, K]; ``v`` [1, H, T, V], the new values; ``g`` [1, H, T].
    """
    require(g is not None, FWD_O, "g is missing")
    require(g_gamma is None and not transpose_state_layout, FWD_O, "an ignored option is set")
    size = 64 if chunk_size is None else chunk_size
    groups = _check_heads(FWD_O, k, v, g)
    require_shape(FWD_O, "q", q, *k.shape)
    for name, tensor in {"q": q, "v": v, "h": h}.items():
        require_dtype(FWD_O, name, tensor, k.dtype)
    _, rows = _tables(FWD_O, k.shape[2], cu_seqlens, chunk_indices, size)
    require_shape(FWD_O, "h", h, 1, v.shape[1], len(rows.tokens), k.shape[3], v.shape[3])

    queries = rows.gather(q[0].transpose(0, 1).float()).repeat_interleave(groups, 2)
    keys = rows.gather(k[0].transpose(0, 1).float()).repeat_interleave(groups, 2)
    values = rows.gather(v[0].transpose(0, 1).float())
    decays = rows.gather(g[0].transpose(0, 1).float())
    states = h[0].transpose(0, 1).float()
    past = torch.einsum("cthk,chkv->cthv", queries, states) * decays.exp()[..., None]
    scores = torch.einsum("cthk,cshk->chts", queries, keys)
    difference = decays.transpose(1, 2)[..., :, None] - decays.transpose(1, 2)[..., None, :]
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    scores = scores * difference.masked_fill(~causal, float("-inf")).exp()
    present = torch.einsum("chts,cshv->cthv", scores, values)
    output = rows.scatter((past + present) * scale, k.shape[2])
    return output.transpose(0, 1)[None].to(v.dtype).contiguous()


def _check_heads(operator: str, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor) -> int:
    """Value heads for each key head."""
    require_dtype(operator, "k", k, *NARROW)
    require_dtype(operator, "g", g, torch.float32, k.dtype)
    require_shape(operator, "k", k, 1, None, None, None)
    require_shape(operator, "values", v, 1, None, k.shape[2], None)
    require_shape(operator, "g", g, 1, v.shape[1], k.shape[2])
    require(v.shape[1] % k.shape[1] == 0, operator, "value heads are no multiple of key heads")
    require(v.shape[3] % HEAD_BLOCK == 0, operator, f"value heads of {v.shape[3]}, not of 128s")
    return v.shape[1] // k.shape[1]


def _tables(
    operator: str,
    tokens: int,
    cu_seqlens: Sequence[int] | None,
    chunk_indices: Sequence[int] | None,
    size: int,
) -> tuple[list[int], ChunkRows]:
    require(
        cu_seqlens is not None and chunk_indices is not None,
        operator,
        "without cu_seqlens and chunk_indices it is not emulated",
    )
    require(len(chunk_indices) % 2 == 0, operator, "chunk_indices are no pairs")
    bounds = list(cu_seqlens)
    require(
        bounds[0] == 0 and bounds[-1] == tokens,
        operator,
        f"cu_seqlens {bounds} do not span the {tokens} tokens",
    )
    pairs = torch.tensor(list(chunk_indices), dtype=torch.int64).view(-1, 2)
    require(
        pairs.tolist() == sorted(pairs.tolist()), operator, f"chunk_indices out of order: {pairs}"
    )
    return bounds, chunk_rows(
        operator, "chunk_indices", torch.tensor(bounds, dtype=torch.int64), pairs, size
    )
