# SPDX-License-Identifier: Apache-2.0
"""The GDN layer on Ascend under prefill context parallelism: each rank has a part of each prompt.

Two exchanges a layer, each one all_gather: the last inputs of the convolution, then what a rank's
part makes of a state. The latter is affine: a part's final state is ``M @ state + c``, with M from
vLLM-Ascend's ``hupdate`` kernel over the step's ``update_`` and ``final_`` tables. Rank 0 starts
from the state before the step and the others from zeros, so that it is counted once, whatever
earlier steps have left there.
"""

from __future__ import annotations

import torch
from vllm.distributed import get_pcp_group
from vllm.distributed.parallel_state import GroupCoordinator
from vllm_ascend.ops.triton.fla.chunk_delta_hupdate import chunk_gated_delta_rule_fwd_hupdate
from vllm_ascend.ops.triton.fla.utils import clear_ssm_states

from ascend_gdn.attention.ascend import StepAscendGDNAttentionMetadata
from ascend_gdn.attention.context_parallel import ContextParallelTables
from ascend_gdn.attention.metadata import (
    CHUNK_SIZE,
    GDNChunkedPrefillMetadata,
    require_prefill_meta,
)
from ascend_gdn.fla.ascend.chunk import chunk_terms
from ascend_gdn.fla.ascend.gdn import PREFILL, StepAscendGatedDeltaNetAttention


class ContextParallelGatedDeltaNetAttention(StepAscendGatedDeltaNetAttention):
    """Our layer, of which each rank computes its part of the prefills, and every decode.

    All ranks hold the same states, before a step and after it.
    """

    def _non_spec(
        self,
        mixed_qkv: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        out: torch.Tensor,
        metadata: StepAscendGDNAttentionMetadata,
    ) -> None:
        tables = metadata.context_parallel
        if tables is None:  # a dummy batch, which is no part of anything
            super()._non_spec(mixed_qkv, g, beta, out, metadata)
            return
        group, decodes = get_pcp_group(), metadata.num_decode_tokens
        meta = require_prefill_meta(
            metadata.non_spec_prefill_fallback_meta,
            layer=self.prefix,
            num_tokens=len(mixed_qkv) - decodes,
            num_seqs=metadata.num_prefills,
        )
        mixed_qkv = self._conv_part(mixed_qkv, metadata, tables, group)
        part = None
        if len(mixed_qkv) > 0:
            qk, v = self._heads(mixed_qkv)
            if decodes > 0:
                o = self._recurrent(
                    qk[:, :decodes],
                    v[:, :decodes],
                    g[:, :decodes],
                    beta[:, :decodes],
                    metadata.decode_actual_seq_lengths,
                    metadata.non_spec_state_indices_tensor[:decodes],
                )
                out[:decodes].copy_(o)
                qk, v, g, beta = (t[:, decodes:] for t in (qk, v, g, beta))
                out = out[decodes:]
            if metadata.num_prefills > 0:
                part = _Part(qk, v, g, beta, meta.chunk, tables)
        ssm_state, blocks = self.kv_cache[1], tables.state_indices
        state = ssm_state.index_select(0, blocks).transpose(-1, -2).contiguous()
        clear_ssm_states(state, tables.has_initial_state)
        final_state = _exchange(part, state, tables, group, out, self.head_k_dim**-0.5)
        ssm_state[blocks] = final_state.transpose(-1, -2).to(ssm_state.dtype)

    def _conv_part(
        self,
        x: torch.Tensor,
        metadata: StepAscendGDNAttentionMetadata,
        tables: ContextParallelTables,
        group: GroupCoordinator,
    ) -> torch.Tensor:
        """Convolve ``x`` [tokens, conv_dim], and leave all ranks the states after the step."""
        conv_state, blocks = self.kv_cache[0], tables.state_indices
        shape = (len(blocks), len(tables.conv_last_rows) // len(blocks), x.shape[1])
        before = conv_state.index_select(0, blocks)[:, : shape[1]].contiguous()
        clear_ssm_states(before, tables.has_initial_state)
        if len(x) > 0:
            last = x.index_select(0, tables.conv_last_rows).view(1, *shape)
        else:
            last = x.new_zeros(1, *shape)
        history = torch.cat([before.unsqueeze(0), group.all_gather(last, 0)]).view(-1, shape[2])
        conv_state[blocks, : shape[1]] = history.index_select(0, tables.conv_past_rows).view(shape)
        if len(x) > 0:
            x = self._conv(
                x,
                metadata.non_spec_query_start_loc,
                metadata.non_spec_state_indices_tensor,
                PREFILL,
                initial_state_mode=metadata.has_initial_state,
            )
        conv_state[blocks, : shape[1]] = history.index_select(0, tables.conv_final_rows).view(shape)
        return x


class _Part:
    """A rank's part of the prefills: n <= N of them have tokens here, T in all.

    Args:
        qk: [2, T, Hk, K], every vector of length 1.
        v: [1, T, Hv, V]; g, beta: [1, T, Hv].
        chunk: The step's tables, of those n.
        tables: Which of the N they are.
    """

    def __init__(
        self,
        qk: torch.Tensor,
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        chunk: GDNChunkedPrefillMetadata,
        tables: ContextParallelTables,
    ) -> None:
        _, k = qk.split_with_sizes((1, 1))
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
        return torch.ops._C_ascend.chunk_gated_delta_rule_fwd_h(
            self.k_heads,
            self.w_heads,
            self.u_heads,
            g=self.g_heads,
            initial_state=self.own(start),
            output_final_state=True,
            chunk_size=CHUNK_SIZE,
            cu_seqlens=self.chunk.cu_seqlens_host,
            chunk_indices=self.chunk.chunk_indices_chunk64_host,
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

    def output(self, h: torch.Tensor, v_new: torch.Tensor, scale: float) -> torch.Tensor:
        """[T, Hv, V]."""
        o = torch.ops._C_ascend.chunk_fwd_o(
            self.q_heads,
            self.k_heads,
            v_new,
            h,
            scale,
            g=self.g_heads,
            cu_seqlens=self.chunk.cu_seqlens_host,
            chunk_indices=self.chunk.chunk_indices_chunk64_host,
            chunk_size=CHUNK_SIZE,
        )
        return o[0].transpose(0, 1)


def _exchange(
    part: _Part | None,
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
        out.copy_(part.output(h, v_new, scale))
    return final_states
