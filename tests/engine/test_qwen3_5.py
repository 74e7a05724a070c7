# SPDX-License-Identifier: Apache-2.0
"""Qwen3.5, served text-only through our CPU worker, against Hugging Face transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_checkpoint import TinySizes, write_checkpoint
from tiny_tokenizer import SPECIAL_TOKENS, VISION_TOKENS

from .job import Job, run
from .parity import assert_equals_transformers, assert_planned_once_a_step

pytestmark = pytest.mark.engine

# Around the chunk (64) and the token budget. The one-token prompt comes last.
LENGTHS = (2, 3, 63, 64, 65, 200, 257, 700, 1500, 1)
MIXED = {"max_num_batched_tokens": 256, "max_num_seqs": 4}

# Few enough blocks that the later prompts get those of earlier ones, with their state in them.
# The options are two ways to serve text alone. vLLM 0.23.0 without one profiles the vision tower
# on an image's placeholder without an image (`_apply_hf_processor_text_only` in
# multimodal/processing/processor.py), which transformers 5.23's processors refuse.
MODELS = {
    "MoE, grouped 1:2, head dim 128, vision tower loaded": (
        TinySizes(family="qwen3_5", dtype="float32", seed=4),
        {"skip_mm_profiling": True, "num_gpu_blocks_override": 24},
    ),
    "dense, grouped 1:3, head dim 64, no vision tower": (
        TinySizes(
            family="qwen3_5",
            dtype="float32",
            seed=5,
            layers=4,
            value_heads=6,
            head_dim=64,
            experts=0,
        ),
        {"language_model_only": True, "num_gpu_blocks_override": 40},
    ),
}


def prompts_of(sizes: TinySizes) -> list[list[int]]:
    rng = np.random.default_rng(sizes.seed)
    first = len(SPECIAL_TOKENS) + len(VISION_TOKENS)
    return [rng.integers(first, sizes.vocab_size, length).tolist() for length in LENGTHS]


@pytest.mark.parametrize("name", MODELS)
def test_float32_equals_transformers(name: str, tmp_path: Path):
    sizes, options = MODELS[name]
    model = write_checkpoint(tmp_path / "model", sizes)
    prompts = prompts_of(sizes)
    result = run(Job(str(model), prompts, engine=MIXED | options), tmp_path)
    assert_equals_transformers(model, prompts, result)
    assert_planned_once_a_step(sizes, sum(LENGTHS), MIXED["max_num_batched_tokens"], result)


def make_draftable(model: Path) -> None:
    """Let most tokens be followed by the next of the vocabulary, and the MTP layer propose it.

    A random MTP layer is never right, and it is the accepted drafts that move the state.
    """
    file = model / "model.safetensors"
    tensors = load_file(file)
    (embedding,) = (t for name, t in tensors.items() if name.endswith("embed_tokens.weight"))
    hidden = embedding.shape[1]
    # A row of lm_head is of norm 2: at 0.4 of that, such a token wins seven times of ten.
    tensors["lm_head.weight"] += 0.4 * 2 / hidden**0.5 * embedding.roll(1, 0)
    tensors["mtp.fc.weight"] = torch.cat([torch.eye(hidden), torch.zeros(hidden, hidden)], dim=1)
    save_file(tensors, file, metadata={"format": "pt"})


def test_mtp_changes_no_token(tmp_path: Path):
    sizes = TinySizes(family="qwen3_5", dtype="float32", seed=4)
    model = write_checkpoint(tmp_path / "model", sizes)
    make_draftable(model)
    prompts = prompts_of(sizes)
    speculation = {"method": "qwen3_5_mtp", "num_speculative_tokens": 3}
    options = {"language_model_only": True, "speculative_config": speculation}
    result = run(Job(str(model), prompts, engine=MIXED | options), tmp_path)

    # Those without MTP are transformers', as above.
    assert_equals_transformers(model, prompts, result)
    stats = result.stats
    print(f"MTP: {stats}")
    assert stats["plans_built"] == stats["prefill_steps"]
    # Fewer than it takes with one token a request and step: drafts were accepted.
    assert stats["steps"] < 0.8 * 31 * len(LENGTHS) / MIXED["max_num_seqs"]
