# SPDX-License-Identifier: Apache-2.0
"""What a Qwen3.5 checkpoint has otherwise than a Qwen3-Next one.

The language model lies beside a vision tower, its config under ``text_config``; the GDN layers have
four input projections; a layer's experts are one tensor, though those of the MTP layer are not.
vLLM 0.23.0 registers the family with its vision tower only (models/registry.py).
"""

from typing import TYPE_CHECKING

import torch

from tiny_tokenizer import SPECIAL_TOKENS, TOKEN_IDS, VISION_TOKENS
from tiny_weights import RandomWeights, Tensors

if TYPE_CHECKING:
    from tiny_checkpoint import TinySizes

# The tower: one block of one head, for images of at most 2 x 2 tokens of 32 x 32 pixels each.
HIDDEN = 32
PATCH = 16
FRAMES = 2
MERGE = 2
POSITIONS = 16
_PIXELS = (PATCH * MERGE) ** 2

_PREPROCESSING = {
    "processor_class": "Qwen3VLProcessor",
    "patch_size": PATCH,
    "temporal_patch_size": FRAMES,
    "merge_size": MERGE,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
# vLLM asks for the first at its start, text-only or not, unless given --language-model-only.
PROCESSOR_FILES: dict[str, dict[str, object]] = {
    "preprocessor_config.json": {
        **_PREPROCESSING,
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "size": {"shortest_edge": _PIXELS, "longest_edge": 4 * _PIXELS},
    },
    "video_preprocessor_config.json": {
        **_PREPROCESSING,
        "video_processor_type": "Qwen3VLVideoProcessor",
        "size": {"shortest_edge": FRAMES * _PIXELS, "longest_edge": 4 * FRAMES * _PIXELS},
    },
}


def mrope_section(attention_head_dim: int) -> list[int]:
    """Rotary frequencies for time, height and width: [11, 11, 10] at the public head size, 256."""
    frequencies = attention_head_dim // 4 // 2
    return [(frequencies + 2 - axis) // 3 for axis in range(3)]


def qwen3_5_config(sizes: "TinySizes") -> dict[str, object]:
    """The config.json: Qwen3_5Moe, or Qwen3_5 where there are no experts."""
    model_type = "qwen3_5_moe" if sizes.experts else "qwen3_5"
    mlp: dict[str, object] = {"intermediate_size": sizes.hidden_size}
    if sizes.experts:
        mlp = {
            "num_experts": sizes.num_experts,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 64,
        }
    vision_ids = {token: len(SPECIAL_TOKENS) + i for i, token in enumerate(VISION_TOKENS)}
    return {
        "architectures": [
            "Qwen3_5MoeForConditionalGeneration"
            if sizes.experts
            else "Qwen3_5ForConditionalGeneration"
        ],
        "model_type": model_type,
        "text_config": {
            "model_type": f"{model_type}_text",
            "dtype": sizes.dtype,
            "vocab_size": sizes.vocab_size,
            "hidden_size": sizes.hidden_size,
            "num_hidden_layers": sizes.layers,
            "layer_types": sizes.layer_types,
            "full_attention_interval": sizes.full_attention_interval,
            "num_attention_heads": sizes.attention_heads,
            "num_key_value_heads": sizes.attention_kv_heads,
            "head_dim": sizes.attention_head_dim,
            "attn_output_gate": True,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "max_position_embeddings": sizes.max_positions,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.25,
                "mrope_interleaved": True,
                "mrope_section": mrope_section(sizes.attention_head_dim),
            },
            "rms_norm_eps": 1e-6,
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": sizes.head_dim,
            "linear_value_head_dim": sizes.head_dim,
            "linear_num_key_heads": sizes.key_heads,
            "linear_num_value_heads": sizes.value_heads,
            "mamba_ssm_dtype": "float32",
            **mlp,
            "mtp_num_hidden_layers": 1,
            "mtp_use_dedicated_embeddings": False,
            **TOKEN_IDS,
            "use_cache": True,
        },
        "vision_config": {
            "model_type": model_type,
            "depth": 1,
            "hidden_size": HIDDEN,
            "hidden_act": "gelu_pytorch_tanh",
            "intermediate_size": HIDDEN,
            "num_heads": 1,
            "in_channels": 3,
            "patch_size": PATCH,
            "temporal_patch_size": FRAMES,
            "spatial_merge_size": MERGE,
            "out_hidden_size": sizes.hidden_size,
            "num_position_embeddings": POSITIONS,
            "deepstack_visual_indexes": [],
        },
        "tie_word_embeddings": False,
        "vision_start_token_id": vision_ids["<|vision_start|>"],
        "vision_end_token_id": vision_ids["<|vision_end|>"],
        "image_token_id": vision_ids["<|image_pad|>"],
        "video_token_id": vision_ids["<|video_pad|>"],
    }


class Qwen35Weights(RandomWeights):
    """Random weights under the names of the public Qwen3.5 checkpoints."""

    backbone = "model.language_model"

    def model(self) -> Tensors:
        yield from super().model()
        yield from self.vision("model.visual")

    def linear_attention_inputs(self, prefix: str, keys: int, values: int) -> Tensors:
        s = self.sizes
        yield f"{prefix}.in_proj_qkv.weight", self.linear(2 * keys + values, s.hidden_size)
        yield f"{prefix}.in_proj_z.weight", self.linear(values, s.hidden_size)
        yield f"{prefix}.in_proj_b.weight", self.linear(s.value_heads, s.hidden_size)
        yield f"{prefix}.in_proj_a.weight", self.linear(s.value_heads, s.hidden_size)

    def experts(self, prefix: str) -> Tensors:
        """[experts, out, in]; in the MTP layer a tensor for each expert."""
        named = list(super().experts(prefix))
        if prefix.startswith("mtp."):
            yield from named
            return
        tensors = [tensor for _, tensor in named]
        gate, up, down = (torch.stack(tensors[i::3]) for i in range(3))  # as ``mlp`` orders them
        yield f"{prefix}.gate_up_proj", torch.cat([gate, up], dim=1)
        yield f"{prefix}.down_proj", down

    def vision(self, prefix: str) -> Tensors:
        merged = HIDDEN * MERGE**2
        patch = 3 * FRAMES * PATCH**2
        projection = self.linear(HIDDEN, patch).view(HIDDEN, 3, FRAMES, PATCH, PATCH)
        yield f"{prefix}.patch_embed.proj.weight", projection
        yield f"{prefix}.patch_embed.proj.bias", self.around(0.0, HIDDEN)
        yield f"{prefix}.pos_embed.weight", self.linear(POSITIONS, HIDDEN)
        block = f"{prefix}.blocks.0"
        yield from self.layer_norm(f"{block}.norm1")
        yield from self.layer_norm(f"{block}.norm2")
        yield from self.biased(f"{block}.attn.qkv", 3 * HIDDEN, HIDDEN)
        yield from self.biased(f"{block}.attn.proj", HIDDEN, HIDDEN)
        yield from self.biased(f"{block}.mlp.linear_fc1", HIDDEN, HIDDEN)
        yield from self.biased(f"{block}.mlp.linear_fc2", HIDDEN, HIDDEN)
        yield from self.layer_norm(f"{prefix}.merger.norm")
        yield from self.biased(f"{prefix}.merger.linear_fc1", merged, merged)
        yield from self.biased(f"{prefix}.merger.linear_fc2", self.sizes.hidden_size, merged)

    def layer_norm(self, prefix: str) -> Tensors:
        yield f"{prefix}.weight", self.around(1.0, HIDDEN)
        yield f"{prefix}.bias", self.around(0.0, HIDDEN)

    def biased(self, prefix: str, rows: int, columns: int) -> Tensors:
        yield f"{prefix}.weight", self.linear(rows, columns)
        yield f"{prefix}.bias", self.around(0.0, rows)
