# SPDX-License-Identifier: Apache-2.0
"""The multi-token prediction (MTP) layer of Qwen3-Next, which transformers leaves out.

As in vLLM 0.23.0 (models/qwen3_next_mtp.py): from the main model's last hidden state of token t,
its final norm included, and the embedding of token t+1, it predicts token t+2. The same layer
drafts on from its own output, each time one position further. The keys and values of earlier
positions are always those of the first depth, as in vLLM's KV cache.
"""

import copy
import re

import torch
from torch import nn
from transformers import DynamicCache, Qwen3NextConfig
from transformers.models.qwen3_next.modeling_qwen3_next import (
    Qwen3NextDecoderLayer,
    Qwen3NextRMSNorm,
    Qwen3NextRotaryEmbedding,
)

_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


class MTP(nn.Module):
    """``mtp.*`` of the checkpoint, parameters of the same names without that prefix."""

    def __init__(self, config: Qwen3NextConfig) -> None:
        super().__init__()
        config = copy.deepcopy(config)
        config.num_hidden_layers = 1
        config.layer_types = ["full_attention"]
        config.mlp_only_layers = []
        config._attn_implementation = "sdpa"
        self.config = config
        width, eps = config.hidden_size, config.rms_norm_eps
        self.fc = nn.Linear(2 * width, width, bias=False)
        self.layers = nn.ModuleList([Qwen3NextDecoderLayer(config, 0)])
        self.norm = Qwen3NextRMSNorm(width, eps=eps)
        self.pre_fc_norm_embedding = Qwen3NextRMSNorm(width, eps=eps)
        self.pre_fc_norm_hidden = Qwen3NextRMSNorm(width, eps=eps)
        self.rotary = Qwen3NextRotaryEmbedding(config)

    def start(self, embeddings: torch.Tensor, hidden: torch.Tensor) -> "Drafts":
        """Depth 1 at every position; both [batch, length, width]: of token t+1, and of token t."""
        cache = DynamicCache(config=self.config)
        positions = torch.arange(hidden.shape[1])[None]
        return Drafts(self, cache, self.step(embeddings, hidden, positions, None, cache))

    def step(
        self,
        embeddings: torch.Tensor,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: DynamicCache,
    ) -> torch.Tensor:
        joined = [self.pre_fc_norm_embedding(embeddings), self.pre_fc_norm_hidden(hidden)]
        hidden = self.fc(torch.cat(joined, dim=-1))
        rotary = self.rotary(hidden, positions)
        layer = self.layers[0]
        return self.norm(
            layer(hidden, position_embeddings=rotary, attention_mask=mask, past_key_values=cache)
        )


class Drafts:
    """Drafting on from some positions of a text, all at once and apart from one another."""

    def __init__(self, mtp: MTP, cache: DynamicCache, hidden: torch.Tensor) -> None:
        self.mtp, self.cache = mtp, cache
        self.hidden = hidden
        """[batch, length, width], depth 1."""

    def choose(self, positions: torch.Tensor) -> torch.Tensor:
        """Go on from ``positions`` [batch, count] only; returns their hidden states, depth 1."""
        length, count = self.hidden.shape[1], positions.shape[1]
        self.positions = positions
        self.visible = torch.arange(length)[None, None] <= positions[:, :, None]
        self.own = torch.eye(count, dtype=torch.bool).expand(len(positions), -1, -1)
        index = positions[:, :, None].expand(-1, -1, self.hidden.shape[2])
        self.hidden = self.hidden.gather(1, index)
        return self.hidden

    def deeper(self, embeddings: torch.Tensor) -> torch.Tensor:
        """The next depth's hidden states, given the tokens drafted last [batch, count, width]."""
        self.positions = self.positions + 1
        self.visible = torch.cat([self.visible, self.own], dim=2)
        self.hidden = self.mtp.step(
            embeddings, self.hidden, self.positions, self.visible[:, None], self.cache
        )
        return self.hidden


def fuse_experts(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """From the checkpoint's names (a tensor per expert) to those of transformers' modules."""
    fused = {name: tensor for name, tensor in tensors.items() if not _EXPERT.fullmatch(name)}
    for prefix in {match[1] for name in tensors if (match := _EXPERT.fullmatch(name))}:
        count = len({name for name in tensors if re.fullmatch(rf"{prefix}\.\d+\.up.*", name)})
        gate, up, down = (
            torch.stack([tensors[f"{prefix}.{i}.{kind}_proj.weight"] for i in range(count)])
            for kind in ("gate", "up", "down")
        )
        fused[f"{prefix}.gate_up_proj"] = torch.cat([gate, up], dim=1)
        fused[f"{prefix}.down_proj"] = down
    return fused


def split_experts(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The reverse of ``fuse_experts``."""
    split = {}
    for name, tensor in tensors.items():
        prefix = name.rpartition(".")[0]
        if name.endswith(".experts.gate_up_proj"):
            for i, gate_up in enumerate(tensor):
                gate, up = gate_up.chunk(2)
                split[f"{prefix}.{i}.gate_proj.weight"] = gate.clone()
                split[f"{prefix}.{i}.up_proj.weight"] = up.clone()
        elif name.endswith(".experts.down_proj"):
            for i, down in enumerate(tensor):
                split[f"{prefix}.{i}.down_proj.weight"] = down.clone()
        else:
            split[name] = tensor
    return split
