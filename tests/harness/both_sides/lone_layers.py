# SPDX-License-Identifier: Apache-2.0
"""GDN layers alone: random weights and states, always the same, no model around them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention

PREFIX = "model.layers.0.linear_attn"
WIDTH = 4
CPU = torch.device("cpu")


@dataclass(frozen=True)
class LayerSizes:
    key_heads: int = 16
    value_heads: int = 32
    head_dim: int = 128

    @property
    def conv_dim(self) -> int:
        return (2 * self.key_heads + self.value_heads) * self.head_dim


def make_layer(
    layer_cls: type[QwenGatedDeltaNetAttention],
    sizes: LayerSizes,
    num_spec: int,
    blocks: int,
    device: torch.device = CPU,
) -> QwenGatedDeltaNetAttention:
    """A layer of ``layer_cls`` in bfloat16, its recurrent state in float32."""

    class Layer(layer_cls):
        def __init__(self) -> None:
            nn.Module.__init__(self)

    random = torch.Generator(device).manual_seed(0)

    def tensor(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return (torch.randn(*shape, generator=random, device=device) * scale).to(dtype)

    layer = Layer()
    layer.prefix, layer.tp_size, layer.activation = PREFIX, 1, "silu"
    layer.num_k_heads, layer.num_v_heads = sizes.key_heads, sizes.value_heads
    layer.head_k_dim = layer.head_v_dim = sizes.head_dim
    layer.key_dim = sizes.key_heads * sizes.head_dim
    layer.value_dim = sizes.value_heads * sizes.head_dim
    layer.conv1d = nn.Module()
    weight = tensor(sizes.conv_dim, 1, WIDTH, scale=0.3, dtype=torch.bfloat16)
    layer.conv1d.weight, layer.conv1d.bias = nn.Parameter(weight, requires_grad=False), None
    layer.A_log = nn.Parameter(tensor(sizes.value_heads).abs().log(), requires_grad=False)
    layer.dt_bias = nn.Parameter(tensor(sizes.value_heads), requires_grad=False)
    layer.kv_cache = (
        tensor(blocks, WIDTH - 1 + num_spec, sizes.conv_dim, scale=0.3, dtype=torch.bfloat16),
        tensor(blocks, sizes.value_heads, sizes.head_dim, sizes.head_dim, scale=0.1),
    )
    return layer


@dataclass
class Activations:
    """Arguments of ``_forward_core``, always the same; the output is poisoned."""

    mixed_qkv: torch.Tensor
    b: torch.Tensor
    a: torch.Tensor
    core_attn_out: torch.Tensor

    @staticmethod
    def of(sizes: LayerSizes, tokens: int) -> Activations:
        random = torch.Generator().manual_seed(1)
        mixed_qkv = torch.randn(tokens, sizes.conv_dim, generator=random)
        b = torch.randn(tokens, sizes.value_heads, generator=random)
        a = torch.randn(tokens, sizes.value_heads, generator=random)
        out = torch.full((tokens, sizes.value_heads, sizes.head_dim), 1e4)
        return Activations(*(t.to(torch.bfloat16) for t in (mixed_qkv, b, a, out)))

    def to(self, device: str | torch.device) -> Activations:
        return Activations(*(t.to(device) for t in vars(self).values()))

    def arguments(self) -> tuple[torch.Tensor, ...]:
        return self.mixed_qkv, self.b, self.a, self.core_attn_out
