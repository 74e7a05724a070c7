# SPDX-License-Identifier: Apache-2.0
"""Gated DeltaNet prefill on CUDA by FlashInfer's kernel, which needs no table of chunks."""

from __future__ import annotations

import torch

from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.fla.chunk import ChunkGatedDeltaRule

_HEAD_DIM = 128


class FlashInferChunkGatedDeltaRule(ChunkGatedDeltaRule):
    """The rule by FlashInfer, given what vLLM gives it (``fi_chunk_gated_delta_rule`` in
    model_executor/layers/mamba/gdn/qwen_gdn_linear_attn.py, 0.23.0).

    Not on the states in their blocks: FlashInfer 0.6.12, which vLLM 0.23.0 pins, takes a state a
    sequence and no indices of them (flashinfer/gdn_prefill.py; 0.6.18 has ``state_indices``).

    Args:
        key_dim: Columns of a key.
        value_dim: Columns of a value.

    Raises:
        ValueError: These are not 128. FlashInfer 0.6.12 does not ask, and its kernel for Hopper
            addresses states of 128 x 128 whatever they are.
        ImportError: FlashInfer is not installed.
    """

    def __init__(self, key_dim: int, value_dim: int) -> None:
        if (key_dim, value_dim) != (_HEAD_DIM, _HEAD_DIM):
            raise ValueError(
                f"gdn_prefill_backend 'flashinfer': got linear_key_head_dim {key_dim} and "
                f"linear_value_head_dim {value_dim}, expected {_HEAD_DIM}; pass "
                "--gdn-prefill-backend triton"
            )
        try:
            from flashinfer.gdn_prefill import chunk_gated_delta_rule
        except ImportError as error:
            raise ImportError(
                f"gdn_prefill_backend 'flashinfer': got {error}, expected FlashInfer to be "
                "installed; install it, or leave --gdn-prefill-backend out"
            ) from error
        self._kernel = chunk_gated_delta_rule

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
        if initial_state is None:
            initial_state = g.new_zeros(chunk.num_seqs, v.shape[1], _HEAD_DIM, _HEAD_DIM)
        _, final_state = self._kernel(
            *qk,
            v,
            g.exp(),
            beta,
            initial_state=initial_state.float(),
            output_final_state=True,
            cu_seqlens=chunk.cu_seqlens,
            output=out,
        )
        return final_state
