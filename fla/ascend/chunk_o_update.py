# SPDX-License-Identifier: Apache-2.0
"""Outputs and states of a rank's part of the prefills, brought up to what the ranks before it have.

What a part makes of a state is affine: its final state is ``M @ state + c``, with M from
vLLM-Ascend's ``hupdate`` kernel over the step's ``update_`` and ``final_`` tables. Rank 0 starts
from the state before the step and the others from zeros, so that it is counted once, whatever
earlier steps have left there.
"""

from __future__ import annotations

import torch
from vllm.distributed.parallel_state import GroupCoordinator
from vllm_ascend.ops.triton.fla.chunk_delta_hupdate import chunk_gated_delta_rule_fwd_hupdate

from ascend_gdn.attention.context_parallel import ContextParallelTables
from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.fla.ascend.chunk import ChunkOperators, chunk_terms
from ascend_gdn.fla.ascend.chunk_delta_h import chunk_gated_delta_rule_fwd_h
from ascend_gdn.fla.ascend.chunk_o import chunk_fwd_o


class RankPart:
    """A rank's part of the prefills: n <= N of them have tokens here, T in all.

    Args:
        operators: The installed version's.
        qk: [2, T, Hk, K], every vector of length 1.
        v: [1, T, Hv, V]; g, beta: [1, T, Hv].
        chunk: The step's tables, of those n.
        tables: Which of the N they are.
    """

    def __init__(
        self,
        operators: ChunkOperators,
        qk: torch.Tensor,
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        chunk: GDNChunkedPrefillMetadata,
        tables: ContextParallelTables,
    ) -> None:
        _, k = qk.split_with_sizes((1, 1))
        self.operators = operators
        self.rows = tables.own_prefills
        self.chunk = chunk
        self.k = k
        self.g, self.w, self.u = chunk_terms(k, v, g, beta, chunk)
        # AscendC's operators take the heads before the tokens.
        self.q_heads, self.k_heads = qk.transpose(1, 2).contiguous().split_with_sizes((1, 1))
        self.g_heads, self.w_heads, self.u_heads = (
            t.transpose(1, 2).contiguous() for t in (self.g, self.w, self.u)
        )

    def own(self, states: torch.Tensor) -> torch.Tensor:
        """[n, …] of [N, …]."""
        return states if self.rows is None else states.index_select(0, self.rows)

    def states(self, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """From the states [N, Hv, K, V] at the part's start: h, new values, final states [n, …]."""
        return chunk_gated_delta_rule_fwd_h(
            self.operators.fwd_h,
            self.k_heads,
            self.w_heads,
            self.u_heads,
            self.g_heads,
            self.own(start),
            self.chunk,
        )

    def matrices(self) -> torch.Tensor:
        """[n, Hv, K, K] float32: what the part multiplies a state by."""
        h_update = chunk_gated_delta_rule_fwd_hupdate(
            k=self.k,
            w=self.w,
            u=self.u,
            g=self.g,
            cu_seqlens=self.chunk.cu_seqlens,
            chunk_indices=self.chunk.chunk_indices_chunk64,
            chunk_offsets=self.chunk.chunk_offsets_chunk64,
            update_chunk_offsets=self.chunk.update_chunk_offsets_chunk64,
        )
        return h_update[0].index_select(0, self.chunk.final_chunk_indices_chunk64)

    def output(self, h: torch.Tensor, v_new: torch.Tensor, scale: float, out: torch.Tensor) -> None:
        """Write ``out`` [T, Hv, V]."""
        operator, g = self.operators.fwd_o, self.g_heads
        chunk_fwd_o(operator, self.q_heads, self.k_heads, v_new, h, g, scale, out, self.chunk)


def chunk_o_update(
    part: RankPart | None,
    state: torch.Tensor,
    tables: ContextParallelTables,
    group: GroupCoordinator,
    out: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Write the part's output to ``out`` [T, Hv, V]; return all final states [N, Hv, K, V] float32.

    ``state`` [N, Hv, K, V] are those before the step; ``part`` is None where the rank has none.
    """
    rank, values = group.rank_in_group, state.shape[-1]
    start = state if rank == 0 else torch.zeros_like(state)
    if part is not None:
        h, v_new, final = part.states(start)
        affine = torch.cat([final.float(), part.matrices()], -1)
    if tables.own_prefills is not None:  # the other prefills go through this rank as they are
        identity = torch.eye(state.shape[-2], dtype=torch.float32, device=state.device)
        own, identity = tables.own_prefills, identity.expand(*state.shape[:2], -1, -1)
        whole = torch.cat([start.float(), identity], -1)
        affine = whole if part is None else whole.index_copy_(0, own.long(), affine)
    gathered = group.all_gather(affine.unsqueeze(0), 0)  # [ranks, N, Hv, K, V + K]
    constants, matrices = gathered.split_with_sizes((values, gathered.shape[-1] - values), -1)
    final_states = constants[0]  # rank 0 started from the states themselves
    for each in range(1, group.world_size):
        if each == rank and part is not None:
            h, v_new, _ = part.states(final_states.to(state.dtype).contiguous())
        final_states = constants[each] + matrices[each] @ final_states
    if part is not None:
        part.output(h, v_new, scale, out)
    return final_states
