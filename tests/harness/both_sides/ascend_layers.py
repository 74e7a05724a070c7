# SPDX-License-Identifier: Apache-2.0
"""GDN layers of vLLM-Ascend and ours, alone.

Needs the emulated NPU in place, or a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import vllm.distributed.parallel_state as parallel_state
from torch import nn
from vllm.forward_context import override_forward_context
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadata
from vllm_ascend.ops.gdn import AscendGatedDeltaNetAttention

from .ascend_workloads import OUR_LAYER
from .lone_layers import PREFIX, WIDTH, LayerSizes, make_layer


class StockLayer(AscendGatedDeltaNetAttention, QwenGatedDeltaNetAttention):
    """vLLM-Ascend's forward, on the class that it assigns it to."""


def stock_layer(sizes: LayerSizes, num_spec: int, blocks: int) -> QwenGatedDeltaNetAttention:
    return with_packed_weights(make_layer(StockLayer, sizes, num_spec, blocks))


def our_layer(sizes: LayerSizes, num_spec: int, blocks: int) -> QwenGatedDeltaNetAttention:
    return with_packed_weights(make_layer(OUR_LAYER, sizes, num_spec, blocks))


def with_packed_weights(layer: QwenGatedDeltaNetAttention) -> QwenGatedDeltaNetAttention:
    """With the convolution's weights as vLLM-Ascend 0.30.0rc2 packs them, [W, conv_dim]."""
    packed = layer.conv1d.weight[:, 0].t().contiguous()
    layer.conv1d.ascend_conv1d_weight = nn.Parameter(packed, requires_grad=False)
    layer.num_spec = layer.kv_cache[0].shape[1] - (WIDTH - 1)
    layer.conv_kernel_size = WIDTH
    return layer


@contextmanager
def forward_context(metadata: GDNAttentionMetadata) -> Iterator[None]:
    """What a layer's forward finds, in a world of one rank."""
    before = parallel_state._PCP
    parallel_state._PCP = SimpleNamespace(world_size=1, rank_in_group=0)
    try:
        with override_forward_context(SimpleNamespace(attn_metadata={PREFIX: metadata})):
            yield
    finally:
        parallel_state._PCP = before
