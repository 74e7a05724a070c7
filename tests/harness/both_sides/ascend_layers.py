# SPDX-License-Identifier: Apache-2.0
"""GDN layers of vLLM-Ascend and ours, alone.

Needs the emulated NPU in place, or a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import vllm.distributed.parallel_state as parallel_state
from vllm.forward_context import override_forward_context
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadata
from vllm_ascend.ops.gdn import AscendGatedDeltaNetAttention

from ascend_gdn.fla.ascend.gdn import StepAscendGatedDeltaNetAttention

from .lone_layers import PREFIX, LayerSizes, make_layer


class StockLayer(AscendGatedDeltaNetAttention, QwenGatedDeltaNetAttention):
    """vLLM-Ascend's forward, on the class that it assigns it to."""


def stock_layer(sizes: LayerSizes, num_spec: int, blocks: int) -> QwenGatedDeltaNetAttention:
    return make_layer(StockLayer, sizes, num_spec, blocks)


def our_layer(sizes: LayerSizes, num_spec: int, blocks: int) -> QwenGatedDeltaNetAttention:
    return make_layer(StepAscendGatedDeltaNetAttention, sizes, num_spec, blocks)


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
