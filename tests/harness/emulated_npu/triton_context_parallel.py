# SPDX-License-Identifier: Apache-2.0
"""What the chunked prefill adds under prefill context parallelism, on the CPU.

Of ``vllm_ascend/ops/triton/fla/chunk_delta_hupdate.py`` and ``chunk_delta_h.py`` (0.23.0.post1),
by the same names and with the same arguments; ``[1, tokens, heads, ...]``. Their kernels take
sequences without tokens, which a rank may have.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from .checks import require
from .ops_chunk import chunk_gated_delta_rule_fwd_h as fwd_h_by_head
from .triton_chunk import rows_of


def chunk_gated_delta_rule_fwd_hupdate(
    k: torch.Tensor,
    w: torch.Tensor,
    u: torch.Tensor,
    g: torch.Tensor | None = None,
    chunk_size: int = 64,
    cu_seqlens: torch.Tensor | None = None,
    chunk_indices: torch.Tensor | None = None,
    chunk_offsets: torch.Tensor | None = None,
    update_chunk_offsets: torch.Tensor | None = None,
    num_decodes: int = 0,
) -> torch.Tensor:
    """[1, chunks + sequences, H, K, K], float32: what the state at a sequence's start becomes.

    For each sequence the identity, then the matrix after each of its chunks; zeros for decodes.
    """
    name = "chunk_gated_delta_rule_fwd_hupdate"
    rows = rows_of(name, "chunk_indices", cu_seqlens, chunk_indices, chunk_size, k.shape[1])
    counts = _counts(cu_seqlens, chunk_size)
    expected = [0, *torch.tensor(counts).cumsum(0).tolist()]
    for table_name, table, extra in (
        ("chunk_offsets", chunk_offsets, 0),
        ("update_chunk_offsets", update_chunk_offsets, 1),
    ):
        wanted = [offset + extra * i for i, offset in enumerate(expected)]
        require(table.tolist() == wanted, name, f"{table_name} {table.tolist()}, not {wanted}")
    heads = u.shape[2]
    keys = rows.gather(k[0].float()).repeat_interleave(heads // k.shape[2], 2)
    weights, decays = rows.gather(w[0].float()), rows.gather(g[0].float())
    last = rows.valid.sum(1) - 1
    final_decay = decays[torch.arange(len(last)), last]
    remaining = ((final_decay[:, None] - decays).exp() * rows.valid[..., None])[..., None]
    update = torch.einsum("cthk,cthl->chkl", keys, weights * remaining)
    step = torch.eye(k.shape[3]) * final_decay.exp()[..., None, None] - update
    matrices = []
    chunk = 0
    for count in counts:
        matrices.append(torch.eye(k.shape[3]).expand(heads, -1, -1))
        for _ in range(count):
            matrices.append(step[chunk] @ matrices[-1])
            chunk += 1
    h_update = torch.stack(matrices)[None]
    h_update[:, : num_decodes * 2] = 0
    return h_update


def chunk_gated_delta_rule_fwd_h(
    k: torch.Tensor,
    w: torch.Tensor,
    u: torch.Tensor,
    g: torch.Tensor | None = None,
    initial_state: torch.Tensor | None = None,
    output_final_state: bool = False,
    chunk_size: int = 64,
    save_new_value: bool = True,
    cu_seqlens: torch.Tensor | None = None,
    chunk_indices: torch.Tensor | None = None,
    chunk_offsets: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As the operator of that name, by token: ``h`` [1, chunks, H, K, V], values [1, T, H, V]."""
    name = "chunk_gated_delta_rule_fwd_h"
    require(initial_state is not None and output_final_state, name, "an option not emulated")
    bounds = cu_seqlens.tolist()
    counts = torch.tensor(_counts(cu_seqlens, chunk_size))
    wanted = [0, *counts.cumsum(0).tolist()]
    require(chunk_offsets.tolist() == wanted, name, f"chunk_offsets are not {wanted}")
    rows_of(name, "chunk_indices", cu_seqlens, chunk_indices, chunk_size, k.shape[1])
    kept = counts > 0
    ranks = kept.cumsum(0) - 1
    pairs = torch.stack([ranks[chunk_indices[:, 0].long()], chunk_indices[:, 1].long()], 1)
    h, values, final_of_kept = fwd_h_by_head(
        *(tensor.transpose(1, 2).contiguous() for tensor in (k, w, u)),
        g=g.transpose(1, 2).contiguous(),
        initial_state=initial_state[kept].float(),
        output_final_state=True,
        chunk_size=chunk_size,
        cu_seqlens=[0, *(end for start, end in pairwise(bounds) if start < end)],
        chunk_indices=pairs.flatten().tolist(),
    )
    final = initial_state.float().clone()
    final[kept] = final_of_kept
    return h.transpose(1, 2), values.transpose(1, 2), final


def _counts(cu_seqlens: torch.Tensor, size: int) -> list[int]:
    return [-((start - end) // size) for start, end in pairwise(cu_seqlens.tolist())]
