# SPDX-License-Identifier: Apache-2.0
"""A Qwen3-Next with heads of its GDN layers twice as wide, and the same answers.

vllm-ascend 0.23.0's AscendC operators go through value heads in blocks of 128; the trained model of
``examples/recall_model`` has heads of 64. Zeros fill them up. What does not stay the same by itself
is that the rule divides its output by the square root of a key's width, and the norm after it takes
the mean over a value's: together the output grows by the square root of 2, which the norm's weight
takes back.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional


def write_with_wider_heads(source: Path, out: Path) -> Path:
    """Write the checkpoint ``source`` to ``out`` so; returns ``out``."""
    shutil.copytree(source, out)
    config = json.loads((out / "config.json").read_text())
    width = config["linear_key_head_dim"]
    assert config["linear_value_head_dim"] == width
    config["linear_key_head_dim"] = config["linear_value_head_dim"] = 2 * width
    (out / "config.json").write_text(json.dumps(config))
    tensors = load_file(out / "model.safetensors")
    for name, tensor in tensors.items():
        if ".linear_attn." in name:
            tensors[name] = _wider(name.split(".linear_attn.")[1], tensor, width)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def _wider(name: str, tensor: torch.Tensor, width: int) -> torch.Tensor:
    if name in ("in_proj_qkvz.weight", "conv1d.weight"):  # whole heads, one after the other
        heads = tensor.view(-1, width, *tensor.shape[1:])
        filled = torch.cat([heads, torch.zeros_like(heads)], 1)
        return filled.reshape(-1, *tensor.shape[1:])
    if name == "out_proj.weight":
        heads = tensor.view(len(tensor), -1, width)
        return functional.pad(heads, (0, width)).reshape(len(tensor), -1)
    if name == "norm.weight":
        return functional.pad(tensor.float() / 2**0.5, (0, width)).to(tensor.dtype)
    assert name in ("A_log", "dt_bias", "in_proj_ba.weight"), name
    return tensor
