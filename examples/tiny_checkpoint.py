#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write a small random checkpoint that vLLM and Hugging Face transformers both load.

    python examples/tiny_checkpoint.py OUTDIR [--family qwen3_5 --value-heads 4 ...]

The weights are seeded, so the same sizes and seed always give the same file. Names and shapes are
those of the public Qwen3-Next and Qwen3.5 checkpoints, ``mtp.*`` included. The tokenizer knows
every byte and a list of made-up words: each word with its leading space is exactly one token.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from tiny_qwen3_5 import PROCESSOR_FILES, Qwen35Weights, qwen3_5_config
from tiny_tokenizer import (
    LARGEST_VOCABULARY,
    SMALLEST_VOCABULARY,
    TOKEN_IDS,
    VISION_TOKENS,
    tiny_qwen3_5_tokenizer,
    tiny_tokenizer,
)
from tiny_weights import RandomWeights

MARKER = "tiny_checkpoint.json"  # holds the sizes; its presence says this script wrote the folder
FORMAT = 2  # raise it when the same sizes and seed would give another file


@dataclasses.dataclass(frozen=True)
class TinySizes:
    """What may vary. ``head_dim`` is that of the linear layers' keys and values.

    ``experts=0`` means dense; in Qwen3-Next except for layer 0 and the MTP layer, since vLLM 0.23.0
    refuses one without any MoE layer (``set_moe_parameters`` in its models/qwen3_next.py).
    """

    seed: int = 0
    hidden_size: int = 256
    layers: int = 8
    full_attention_interval: int = 4
    key_heads: int = 2
    value_heads: int = 4
    head_dim: int = 128
    attention_heads: int = 4
    attention_kv_heads: int = 2
    attention_head_dim: int = 64
    experts: int = 4
    vocab_size: int = 1024
    max_positions: int = 32768
    dtype: str = "bfloat16"
    family: str = "qwen3_next"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and (type(value) is not int or not 0 <= value < 2**63):
                raise ValueError(f"{field.name} = {value!r}: give a whole number from 0 to 2**63-1")
        for name in ("hidden_size", "layers", "key_heads", "value_heads", "head_dim"):
            _require(getattr(self, name) > 0, f"{name} is 0: give at least 1")
        _divides("key_heads", self.key_heads, "value_heads", self.value_heads)
        _require(self.attention_kv_heads > 0, "attention_kv_heads is 0: give at least 1")
        _divides("attention_kv_heads", self.attention_kv_heads,
                 "attention_heads", self.attention_heads)  # fmt: skip
        _divides("32 (vLLM's CPU MoE kernel)", 32, "hidden_size", self.hidden_size)
        _divides("32 (vLLM's CPU GDN and attention kernels)", 32, "head_dim", self.head_dim)
        _divides("32 (vLLM's CPU attention kernel)", 32,
                 "attention_head_dim", self.attention_head_dim)  # fmt: skip
        _require(
            2 <= self.full_attention_interval <= self.layers,
            f"full_attention_interval = {self.full_attention_interval} with {self.layers} layers: "
            "give 2 or more, and at most the layers, so that both kinds of layer are there",
        )
        _require(self.experts != 1, "experts = 1: give 0 for dense, or at least 2")
        _require(
            self.family in ("qwen3_next", "qwen3_5"),
            f"family = {self.family!r}: give qwen3_next or qwen3_5",
        )
        smallest = SMALLEST_VOCABULARY
        if self.family == "qwen3_5":
            smallest += len(VISION_TOKENS)
        _require(
            smallest <= self.vocab_size <= LARGEST_VOCABULARY,
            f"vocab_size = {self.vocab_size}: give {smallest} to {LARGEST_VOCABULARY}",
        )
        _require(
            self.dtype in ("float32", "bfloat16"),
            f"dtype = {self.dtype!r}: give float32 or bfloat16",
        )

    @property
    def layer_types(self) -> list[str]:
        return [
            "linear_attention" if (i + 1) % self.full_attention_interval else "full_attention"
            for i in range(self.layers)
        ]

    @property
    def mlp_only_layers(self) -> list[int]:
        if self.experts:
            return []
        # Layer 0 of a dense Qwen3-Next stays MoE: vLLM reads the MTP layer's kind from index 0 too.
        return list(range(1 if self.family == "qwen3_next" else 0, self.layers))

    @property
    def num_experts(self) -> int:
        return self.experts or (2 if self.family == "qwen3_next" else 0)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _divides(divisor_name: str, divisor: int, name: str, value: int) -> None:
    _require(
        divisor > 0 and value > 0 and value % divisor == 0,
        f"{name} = {value}: give a multiple of {divisor_name}"
        + (f" = {divisor}" if divisor_name.isidentifier() else ""),
    )


def model_config(sizes: TinySizes) -> dict[str, object]:
    """The config.json of the checkpoint, in the family's own terms."""
    if sizes.family == "qwen3_5":
        return qwen3_5_config(sizes)
    return {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "dtype": sizes.dtype,
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.hidden_size,
        "num_hidden_layers": sizes.layers,
        "layer_types": sizes.layer_types,
        "full_attention_interval": sizes.full_attention_interval,
        "num_attention_heads": sizes.attention_heads,
        "num_key_value_heads": sizes.attention_kv_heads,
        "head_dim": sizes.attention_head_dim,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "max_position_embeddings": sizes.max_positions,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": sizes.head_dim,
        "linear_value_head_dim": sizes.head_dim,
        "linear_num_key_heads": sizes.key_heads,
        "linear_num_value_heads": sizes.value_heads,
        "decoder_sparse_step": 1,
        "mlp_only_layers": sizes.mlp_only_layers,
        "num_experts": sizes.num_experts,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64,
        "num_nextn_predict_layers": 1,
        **TOKEN_IDS,
        "use_cache": True,
    }


def write_checkpoint(out: Path, sizes: TinySizes) -> Path:
    """Write the checkpoint to ``out``, whole or not at all; returns ``out``.

    A checkpoint of the same sizes that is already there is kept, one of other sizes is replaced.
    Raises FileExistsError if ``out`` holds anything that this script did not write.
    """
    out = Path(out)
    marker = json.dumps({"format": FORMAT, **dataclasses.asdict(sizes)}, indent=2) + "\n"
    if out.exists():
        if not (out / MARKER).is_file() and not (out.is_dir() and not any(out.iterdir())):
            raise FileExistsError(
                f"{out} exists and has no {MARKER}, so it was not written by this script: "
                "give another folder, or remove this one yourself"
            )
        if (out / MARKER).is_file() and (out / MARKER).read_text() == marker:
            return out
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside `out`, so that the renames below stay within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[sizes.dtype]
        weights = (Qwen35Weights if sizes.family == "qwen3_5" else RandomWeights)(sizes)
        tensors = {name: t.to(dtype).contiguous() for name, t in weights.model()}
        save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
        make_tokenizer = tiny_qwen3_5_tokenizer if sizes.family == "qwen3_5" else tiny_tokenizer
        make_tokenizer(sizes.vocab_size, sizes.max_positions).save_pretrained(new)
        _write_json(new / "config.json", model_config(sizes))
        _write_json(new / "generation_config.json", TOKEN_IDS)
        if sizes.family == "qwen3_5":
            for name, content in PROCESSOR_FILES.items():
                _write_json(new / name, content)
        (new / MARKER).write_text(marker)
        if out.exists():
            os.rename(out, old)
        os.rename(new, out)
    return out


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write a small random checkpoint.")
    parser.add_argument("outdir", type=Path)
    for field in dataclasses.fields(TinySizes):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=field.type, default=field.default,
                            help=f"default: {field.default}")  # fmt: skip
    options = vars(parser.parse_args(arguments))
    out = options.pop("outdir")
    try:
        write_checkpoint(out, TinySizes(**options))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    megabytes = (out / "model.safetensors").stat().st_size / 1e6
    print(f"{out}: {megabytes:.1f} MB of weights")
    return 0


if __name__ == "__main__":
    sys.exit(main())
