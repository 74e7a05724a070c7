# SPDX-License-Identifier: Apache-2.0
"""The GDN layer on Ascend under prefill context parallelism: each rank has a part of each prompt.

Two exchanges a layer, each one all_gather: the last inputs of the convolution, then what a rank's
part makes of a state (``chunk_o_update.py``).
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed import get_pcp_group
from vllm.distributed.parallel_state import GroupCoordinator
from vllm_ascend.ops.triton.fla.utils import clear_ssm_states

from ascend_gdn.attention.ascend import StepAscendGDNAttentionMetadata
from ascend_gdn.attention.context_parallel import ContextParallelTables
from ascend_gdn.fla.ascend.chunk_o_update import RankPart, chunk_o_update
from ascend_gdn.fla.ascend.operators import OwnOperatorsLayer
from ascend_gdn.fla.gdn import Activations


class ContextParallelGatedDeltaNetAttention(OwnOperatorsLayer):
    """Our layer, of which each rank computes its part of the prefills, and every decode.

    All ranks hold the same states, before a step and after it.
    """

    def _non_spec(self, x: Activations, metadata: StepAscendGDNAttentionMetadata) -> None:
        tables = metadata.context_parallel
        if tables is None:  # a dummy batch, which is no part of anything
            super()._non_spec(x, metadata)
            return
        group, decodes = get_pcp_group(), metadata.num_decode_tokens
        meta: Any = metadata.non_spec_prefill_fallback_meta
        mixed_qkv, beta, g, out = x
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
                part = RankPart(self._chunk_operators, qk, v, g, beta, meta.chunk, tables)
        ssm_state, blocks = self.kv_cache[1], tables.state_indices
        state = ssm_state.index_select(0, blocks).transpose(-1, -2).contiguous()
        clear_ssm_states(state, tables.has_initial_state)
        final_state = chunk_o_update(part, state, tables, group, out, self.head_k_dim**-0.5)
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
            x = self._conv_prefill(
                x,
                metadata.non_spec_query_start_loc,
                metadata.non_spec_state_indices_tensor,
                metadata.has_initial_state,
            )
        conv_state[blocks, : shape[1]] = history.index_select(0, tables.conv_final_rows).view(shape)
        return x
