# SPDX-License-Identifier: Apache-2.0
"""A model folder without weights, for --load-format dummy: config.json and a tokenizer.

The sizes are those of Qwen3.5-35B-A3B and Qwen3-Next-80B-A3B but for what is asked for; the MTP
layer is there, and Qwen3.5's vision tower is next to nothing. The tokenizer knows a part of the
vocabulary: the other tokens, which dummy weights do produce, are empty text. Serve Qwen3.5 with
--language-model-only: images are not provided for.
"""

import json
from pathlib import Path
from typing import Any

from tiny_checkpoint import TinySizes, model_config
from tiny_qwen3_5 import PROCESSOR_FILES
from tiny_tokenizer import (
    LARGEST_VOCABULARY,
    SMALLEST_VOCABULARY,
    TOKEN_IDS,
    VISION_TOKENS,
    tiny_qwen3_5_tokenizer,
    tiny_tokenizer,
)

# Hugging Face: Qwen/Qwen3.5-35B-A3B and Qwen/Qwen3-Next-80B-A3B-Instruct.
PUBLIC_SIZES: dict[str, dict[str, int]] = {
    "qwen3_5": {
        "layers": 40,
        "full_attention_interval": 4,
        "experts": 256,
        "experts_per_token": 8,
        "vocab_size": 248320,
    },
    "qwen3_next": {
        "layers": 48,
        "full_attention_interval": 4,
        "experts": 512,
        "experts_per_token": 10,
        "vocab_size": 151936,
    },
}


def dummy_config(
    family: str,
    layers: int,
    full_attention_interval: int,
    experts: int,
    experts_per_token: int,
    vocab_size: int,
) -> dict[str, Any]:
    """The config.json; raises ValueError for sizes that no model can have."""
    if not 1 <= experts_per_token <= experts:
        raise ValueError(f"{experts_per_token} experts per token, and there are {experts}")
    smallest = SMALLEST_VOCABULARY + len(VISION_TOKENS)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size = {vocab_size}: give {smallest} or more")
    sizes = TinySizes(
        family=family,
        layers=layers,
        experts=experts,
        hidden_size=2048,
        full_attention_interval=full_attention_interval,
        key_heads=16,
        value_heads=32,
        head_dim=128,
        attention_heads=16,
        attention_kv_heads=2,
        attention_head_dim=256,
        max_positions=262144,
    )
    config: dict[str, Any] = model_config(sizes)
    text = config["text_config"] if family == "qwen3_5" else config
    text["vocab_size"] = vocab_size
    text["num_experts_per_tok"] = experts_per_token
    text["moe_intermediate_size"] = text["shared_expert_intermediate_size"] = 512
    if family == "qwen3_5":
        text["rope_parameters"]["rope_theta"] = 1e7
    else:
        text["rope_theta"] = 1e7
        text["intermediate_size"] = 5120
    return config


def write_dummy_model(out: Path, config: dict[str, Any], family: str) -> None:
    """Write the folder ``out``, which may be there already if it holds no weights."""
    if any(out.glob("*.safetensors")):
        raise ValueError(f"{out} holds weights: give another folder")
    out.mkdir(parents=True, exist_ok=True)
    text = config.get("text_config", config)
    make_tokenizer = tiny_qwen3_5_tokenizer if family == "qwen3_5" else tiny_tokenizer
    known = min(text["vocab_size"], LARGEST_VOCABULARY)
    make_tokenizer(known, text["max_position_embeddings"]).save_pretrained(out)
    files = {"config.json": config, "generation_config.json": TOKEN_IDS}
    if family == "qwen3_5":
        files |= PROCESSOR_FILES
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n")


def weights_gigabytes(config: dict[str, Any]) -> float:
    """What the experts and the embeddings take in bfloat16: nearly all there is."""
    text = config.get("text_config", config)
    hidden, expert = text["hidden_size"], text["moe_intermediate_size"]
    layers = text["num_hidden_layers"] + 1  # and the MTP layer
    experts = layers * text["num_experts"] * 3 * hidden * expert
    return 2 * (experts + 2 * text["vocab_size"] * hidden) / 1e9
