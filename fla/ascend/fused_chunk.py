# SPDX-License-Identifier: Apache-2.0
"""The whole prefill by one operator, from vLLM-Ascend 0.30.0rc2 on, over the step's host tables.

Two may be there (vllm_ascend/ops/gdn.py): that of ``fla_npu``, and CANN's, which vLLM-Ascend tries
out once a process. Both take each vector of queries and keys normed, and the decay as it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch_npu
from vllm_ascend.device.hardware_profile import (
    DeviceAdaptorFamily,
    HardwareCapability,
    get_current_hardware_profile,
)
from vllm_ascend.ops.gdn import AscendGatedDeltaNetAttention

from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.attention.table_layout import CHUNK_SIZE
from ascend_gdn.fla.chunk import ChunkGatedDeltaRule


class FlaNpuChunkGatedDeltaRule(ChunkGatedDeltaRule):
    """The rule by ``chunk_gated_delta_rule_fwd``; states are [N, Hv, K, V].

    Args:
        scale: Of the queries.
        operator: Of ``fla_npu.ops.ascendc``.
    """

    def __init__(self, scale: float, operator: Callable[..., Any]) -> None:
        self.scale = scale
        self.operator = operator

    def __call__(
        self,
        qk: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        initial_state: torch.Tensor | None,
        out: torch.Tensor,
        chunk: GDNChunkedPrefillMetadata,
    ) -> torch.Tensor:
        assert isinstance(qk, torch.Tensor) and initial_state is not None
        q, k = qk.transpose(1, 2).contiguous().split_with_sizes((1, 1))
        # Its tensors have the heads before the tokens, its gates and its output have not. All that
        # it is not given by default is what vLLM-Ascend gives it (fla_gdn_prefill in device_op.py).
        o, final_state, *_ = self.operator(
            q,
            k,
            v.transpose(1, 2).contiguous(),
            g,
            beta,
            initial_state=initial_state,
            output_final_state=True,
            chunk_size=CHUNK_SIZE,
            cu_seqlens=chunk.cu_seqlens_host,
            chunk_indices=chunk.chunk_indices_chunk64_host,
            scale=self.scale,
            layout="BNSD",
            use_exp2=False,
            use_qk_l2norm_in_kernel=False,
            allow_neg_eigval=False,
            disable_recompute=True,
            state_v_first=False,
        )
        out.copy_(o.squeeze(0))
        return final_state


class CannChunkGatedDeltaRule(ChunkGatedDeltaRule):
    """The rule by ``torch_npu.npu_chunk_gated_delta_rule``; states are [N, Hv, K, V].

    The operator keeps states in the model's dtype, whatever that of the cache.

    Args:
        scale: Of the queries.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(
        self,
        qk: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        initial_state: torch.Tensor | None,
        out: torch.Tensor,
        chunk: GDNChunkedPrefillMetadata,
    ) -> torch.Tensor:
        assert isinstance(qk, torch.Tensor) and initial_state is not None
        q, k = qk.contiguous().unbind(0)
        o, final_state = torch_npu.npu_chunk_gated_delta_rule(
            q,
            k,
            v.squeeze(0).contiguous(),
            beta=beta.squeeze(0).contiguous(),
            initial_state=initial_state.mT.to(q.dtype).contiguous(),
            actual_seq_lengths=chunk.lengths,
            scale=self.scale,
            g=g.squeeze(0).contiguous(),
        )
        out.copy_(o)
        return final_state.mT.to(initial_state.dtype)


def fused_chunk_rule(scale: float) -> ChunkGatedDeltaRule | None:
    """The first that is there, in vLLM-Ascend's order; None if neither is.

    Not on an A5, where ``fla_npu``'s takes other layouts and no state is laid out like ours.
    """
    profile = get_current_hardware_profile()
    if profile.device_adaptor_family is not DeviceAdaptorFamily.STANDARD:
        return None
    if profile.supports(HardwareCapability.FLA_GDN_PREFILL):
        operator = vars(importlib.import_module("fla_npu.ops.ascendc")).get(
            "chunk_gated_delta_rule_fwd"
        )
        if operator is not None:
            return FlaNpuChunkGatedDeltaRule(scale, operator)
    if AscendGatedDeltaNetAttention._probe_fused_chunk():
        return CannChunkGatedDeltaRule(scale)
    return None
