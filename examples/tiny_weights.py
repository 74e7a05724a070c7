# SPDX-License-Identifier: Apache-2.0
"""The random weights of a tiny Qwen3-Next, under the names of the public checkpoints."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from tiny_checkpoint import TinySizes

Tensors = Iterator[tuple[str, torch.Tensor]]

# What a layer adds is small beside what it adds to, as in a trained model: rounding grows little
# on its way up (bf16 moves a logprob by 0.03 on average, float32 by less than 1e-5), while a
# token that the state forgot still moves the logprobs 900 tokens later by more than 1e-2.
RESIDUAL_GAIN = 0.5


class RandomWeights:
    """Draws the tensors one after another from a single seeded generator."""

    backbone = "model"
    """Where the language model lies."""

    def __init__(self, sizes: "TinySizes") -> None:
        self.sizes = sizes
        self.generator = torch.Generator().manual_seed(sizes.seed)

    def linear(self, rows: int, columns: int, gain: float = 1.0) -> torch.Tensor:
        weight = torch.randn(rows, columns, generator=self.generator)
        return weight * (gain / math.sqrt(columns))

    def around(self, centre: float, size: int) -> torch.Tensor:
        return centre + 0.1 * torch.randn(size, generator=self.generator)

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self.generator)

    def model(self) -> Tensors:
        s = self.sizes
        yield (
            f"{self.backbone}.embed_tokens.weight",
            torch.randn(s.vocab_size, s.hidden_size, generator=self.generator),
        )
        for i, kind in enumerate(s.layer_types):
            yield from self.layer(
                f"{self.backbone}.layers.{i}", kind, moe=i not in s.mlp_only_layers
            )
        yield f"{self.backbone}.norm.weight", self.around(0.0, s.hidden_size)
        # Logits of standard deviation 2: far from uniform, and far from saturated.
        yield "lm_head.weight", self.linear(s.vocab_size, s.hidden_size, gain=2.0)
        yield "mtp.fc.weight", self.linear(s.hidden_size, 2 * s.hidden_size)
        for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
            yield f"mtp.{name}.weight", self.around(0.0, s.hidden_size)
        yield from self.layer("mtp.layers.0", "full_attention", moe=s.num_experts > 0)

    def layer(self, prefix: str, kind: str, moe: bool) -> Tensors:
        hidden = self.sizes.hidden_size
        yield f"{prefix}.input_layernorm.weight", self.around(0.0, hidden)
        yield f"{prefix}.post_attention_layernorm.weight", self.around(0.0, hidden)
        if kind == "linear_attention":
            yield from self.linear_attention(f"{prefix}.linear_attn")
        else:
            yield from self.full_attention(f"{prefix}.self_attn")
        yield from self.moe(f"{prefix}.mlp") if moe else self.mlp(f"{prefix}.mlp", hidden)

    def linear_attention(self, prefix: str) -> Tensors:
        s = self.sizes
        keys, values = s.key_heads * s.head_dim, s.value_heads * s.head_dim
        yield from self.linear_attention_inputs(prefix, keys, values)
        yield f"{prefix}.conv1d.weight", self.uniform(-0.5, 0.5, 2 * keys + values, 1, 4)
        # Mamba-2's initialisation, not transformers' (dt_bias = 1, which forgets the state within
        # a token): time steps of 1e-3 to 1e-1, so that heads remember for 1 to 1000 tokens.
        step = torch.exp(self.uniform(math.log(1e-3), math.log(1e-1), s.value_heads))
        yield f"{prefix}.dt_bias", torch.log(torch.expm1(step))
        yield f"{prefix}.A_log", torch.log(self.uniform(1.0, 8.0, s.value_heads))
        yield f"{prefix}.norm.weight", self.around(1.0, s.head_dim)
        yield f"{prefix}.out_proj.weight", self.linear(s.hidden_size, values, RESIDUAL_GAIN)

    def linear_attention_inputs(self, prefix: str, keys: int, values: int) -> Tensors:
        s = self.sizes
        yield f"{prefix}.in_proj_qkvz.weight", self.linear(2 * keys + 2 * values, s.hidden_size)
        yield f"{prefix}.in_proj_ba.weight", self.linear(2 * s.value_heads, s.hidden_size)

    def full_attention(self, prefix: str) -> Tensors:
        s = self.sizes
        queries = s.attention_heads * s.attention_head_dim
        keys = s.attention_kv_heads * s.attention_head_dim
        # q_proj holds each head's query and output gate.
        yield f"{prefix}.q_proj.weight", self.linear(2 * queries, s.hidden_size)
        yield f"{prefix}.k_proj.weight", self.linear(keys, s.hidden_size)
        yield f"{prefix}.v_proj.weight", self.linear(keys, s.hidden_size)
        yield f"{prefix}.o_proj.weight", self.linear(s.hidden_size, queries, RESIDUAL_GAIN)
        yield f"{prefix}.q_norm.weight", self.around(0.0, s.attention_head_dim)
        yield f"{prefix}.k_norm.weight", self.around(0.0, s.attention_head_dim)

    def mlp(self, prefix: str, intermediate: int) -> Tensors:
        hidden = self.sizes.hidden_size
        yield f"{prefix}.gate_proj.weight", self.linear(intermediate, hidden)
        yield f"{prefix}.up_proj.weight", self.linear(intermediate, hidden)
        yield f"{prefix}.down_proj.weight", self.linear(hidden, intermediate, RESIDUAL_GAIN)

    def moe(self, prefix: str) -> Tensors:
        s = self.sizes
        # A decisive router: near-ties, where rounding picks another expert, are rare and cheap.
        yield f"{prefix}.gate.weight", self.linear(s.num_experts, s.hidden_size, gain=4.0)
        yield from self.experts(f"{prefix}.experts")
        yield from self.mlp(f"{prefix}.shared_expert", 64)
        yield f"{prefix}.shared_expert_gate.weight", self.linear(1, s.hidden_size)

    def experts(self, prefix: str) -> Tensors:
        for i in range(self.sizes.num_experts):
            yield from self.mlp(f"{prefix}.{i}", 64)
