# SPDX-License-Identifier: Apache-2.0
"""GDN layers of vLLM and ours on CUDA, alone."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from types import SimpleNamespace

import torch
from vllm.forward_context import override_forward_context
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import (
    ChunkGatedDeltaRule as VllmChunkGatedDeltaRule,
)
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadata

from ascend_gdn.fla.cuda.gdn import StepCudaGatedDeltaNetAttention

from .lone_layers import PREFIX, LayerSizes, make_layer

PREFILLS = {
    "ascend_gdn": VllmChunkGatedDeltaRule.forward_native,  # what it takes for Triton
    "triton": VllmChunkGatedDeltaRule.forward_native,
    "flashinfer": VllmChunkGatedDeltaRule.forward_cuda,
}
"""What vLLM's operator of that name runs; it cannot be made without an engine's configuration."""


def stock_layer(
    sizes: LayerSizes,
    num_spec: int,
    blocks: int,
    device: torch.device,
    prefill_backend: str = "triton",
    layer_cls: type[QwenGatedDeltaNetAttention] = QwenGatedDeltaNetAttention,
) -> QwenGatedDeltaNetAttention:
    """vLLM's layer."""
    layer = make_layer(layer_cls, sizes, num_spec, blocks, device)
    layer.gdn_prefill_backend = prefill_backend
    layer.enable_packed_recurrent_decode = False
    layer._prefill_kernels_warmed_up = True
    layer.chunk_gated_delta_rule = partial(PREFILLS[prefill_backend], None)
    return layer


def our_layer(
    sizes: LayerSizes,
    num_spec: int,
    blocks: int,
    device: torch.device,
    prefill_backend: str = "ascend_gdn",
) -> QwenGatedDeltaNetAttention:
    layer = stock_layer(
        sizes, num_spec, blocks, device, prefill_backend, StepCudaGatedDeltaNetAttention
    )
    layer.make_kernels(prefill_backend)
    return layer


def forward_context(metadata: GDNAttentionMetadata) -> AbstractContextManager[None]:
    """What a layer's forward finds."""
    return override_forward_context(SimpleNamespace(attn_metadata={PREFIX: metadata}))
