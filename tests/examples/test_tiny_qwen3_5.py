# SPDX-License-Identifier: Apache-2.0
"""The checkpoint maker's Qwen3.5: transformers takes all of it, vision tower and text alone."""

import dataclasses
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from tiny_checkpoint import TinySizes, write_checkpoint
from tiny_qwen3_5 import mrope_section
from tiny_tokenizer import VISION_TOKENS, word

MOE = TinySizes(
    family="qwen3_5",
    dtype="float32",
    hidden_size=64,
    layers=4,
    head_dim=32,
    attention_head_dim=32,
    vocab_size=320,
)
DENSE = dataclasses.replace(MOE, experts=0, value_heads=6)
NAMES = {MOE: "Qwen3_5MoeForConditionalGeneration", DENSE: "Qwen3_5ForConditionalGeneration"}


@pytest.fixture(scope="module")
def moe(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "moe", MOE)


@pytest.mark.parametrize("sizes", NAMES, ids=NAMES.values())
def test_transformers_loads_every_weight(tmp_path, sizes):
    path = write_checkpoint(tmp_path / "model", sizes)
    ids = torch.arange(7, 107)[None]
    logits = []
    for auto in (AutoModelForImageTextToText, AutoModelForCausalLM):
        model, report = auto.from_pretrained(path, output_loading_info=True)
        assert not any(report.values())
        with torch.inference_mode():
            logits.append(model(ids).logits[0])
        if auto is AutoModelForImageTextToText:
            assert type(model).__name__ == NAMES[sizes]
            unknown = load_file(path / "model.safetensors").keys() - model.state_dict().keys()
            assert all(name.startswith("mtp.") for name in unknown)
    assert 1 < logits[0].std() < 4  # neither uniform nor saturated
    torch.testing.assert_close(*logits)


def test_names_of_the_public_checkpoints(moe):
    names = load_file(moe / "model.safetensors").keys()
    assert {
        "lm_head.weight",
        "model.language_model.embed_tokens.weight",
        "model.language_model.layers.0.linear_attn.in_proj_qkv.weight",
        "model.language_model.layers.0.mlp.experts.gate_up_proj",
        "model.visual.merger.linear_fc2.bias",
        "mtp.fc.weight",
        "mtp.norm.weight",
        "mtp.pre_fc_norm_embedding.weight",
        "mtp.pre_fc_norm_hidden.weight",
        "mtp.layers.0.self_attn.q_proj.weight",
        "mtp.layers.0.mlp.experts.3.up_proj.weight",
    } <= names
    assert not any("experts.0" in name for name in names if not name.startswith("mtp."))


def test_dense_has_no_experts(tmp_path):
    path = write_checkpoint(tmp_path / "model", DENSE)
    names = load_file(path / "model.safetensors").keys()
    assert "mtp.layers.0.mlp.gate_proj.weight" in names
    assert not any("expert" in name for name in names)
    assert "num_experts" not in json.loads((path / "config.json").read_text())["text_config"]


def test_the_vision_tower_sees(moe):
    processor = AutoProcessor.from_pretrained(moe)
    model = AutoModelForImageTextToText.from_pretrained(moe)
    logits = []
    for colour in ("red", "green"):
        inputs = processor(
            text="<|vision_start|><|image_pad|><|vision_end|> bada",
            images=Image.new("RGB", (500, 300), colour),
            return_tensors="pt",
        )
        with torch.inference_mode():
            logits.append(model(**inputs).logits[0, -1])
    assert logits[0].isfinite().all()
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_tokens(moe):
    tokenizer = AutoTokenizer.from_pretrained(moe)
    assert len(tokenizer) == MOE.vocab_size
    assert len(tokenizer(f" {word(0)} {word(10)}" * 65)["input_ids"]) == 130
    text = f"Grüße, {word(1)} {word(200)}!\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert tokenizer(chat)["input_ids"].count(tokenizer.eos_token_id) == 1
    config = json.loads((moe / "config.json").read_text())
    keys = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    assert tokenizer.convert_tokens_to_ids(list(VISION_TOKENS)) == [config[key] for key in keys]


def test_same_seed_same_weights(moe, tmp_path):
    again = write_checkpoint(tmp_path / "again", MOE)
    other = write_checkpoint(tmp_path / "other", dataclasses.replace(MOE, seed=1))
    weights = (moe / "model.safetensors").read_bytes()
    assert (again / "model.safetensors").read_bytes() == weights
    assert (other / "model.safetensors").read_bytes() != weights


def test_replaces_a_checkpoint_of_the_other_family(tmp_path):
    path = write_checkpoint(tmp_path / "model", MOE)
    write_checkpoint(path, dataclasses.replace(MOE, family="qwen3_next"))
    assert json.loads((path / "config.json").read_text())["model_type"] == "qwen3_next"
    assert not (path / "preprocessor_config.json").exists()


@pytest.mark.parametrize(
    ("head_dim", "section"), [(256, [11, 11, 10]), (64, [3, 3, 2]), (32, [2, 1, 1])]
)
def test_mrope_section(head_dim, section):
    assert mrope_section(head_dim) == section
