# SPDX-License-Identifier: Apache-2.0
"""The checkpoint maker: what it writes, what it refuses, and that transformers loads it."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen3NextForCausalLM

from tiny_checkpoint import FORMAT, MARKER, TinySizes, main, model_config, write_checkpoint
from tiny_tokenizer import word

SMALL = TinySizes(hidden_size=64, layers=4, head_dim=32, attention_head_dim=32, vocab_size=300)
SHAPES = {
    "moe, value heads 1:2": SMALL,
    "dense, value heads 1:1": dataclasses.replace(SMALL, experts=0, value_heads=2),
    "value heads 1:3, head dim 64": dataclasses.replace(SMALL, value_heads=6, head_dim=64),
    "interval 2, 6 layers": dataclasses.replace(SMALL, full_attention_interval=2, layers=6),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small", SMALL)


@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES)
def test_transformers_loads_every_weight(tmp_path, sizes):
    path = write_checkpoint(tmp_path / "model", sizes)
    model, report = Qwen3NextForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert all(key.startswith("mtp.") for key in report["unexpected_keys"])
    with torch.inference_mode():
        logits = model(torch.arange(3, 103)[None]).logits[0].float()
    assert logits.isfinite().all()
    assert 1 < logits.std() < 4  # neither uniform nor saturated


def test_the_state_carries_a_long_way(tmp_path):
    # Without the attention layers' output, only the GDN state brings token 0 to token 199.
    path = write_checkpoint(tmp_path / "model", dataclasses.replace(SMALL, dtype="float32"))
    model = Qwen3NextForCausalLM.from_pretrained(path)
    ids = torch.arange(3, 203)[None]
    changed = ids.clone()
    changed[0, 0] = 250
    with torch.inference_mode():
        for layer, kind in zip(model.model.layers, SMALL.layer_types, strict=True):
            if kind == "full_attention":
                layer.self_attn.o_proj.weight.zero_()
        logprobs = model(ids).logits[0].log_softmax(-1)
        difference = (logprobs - model(changed).logits[0].log_softmax(-1)).abs()
    assert difference[64].max() > 1e-2
    assert difference[199].max() > 1e-3


def test_has_one_mtp_layer_of_full_attention(small):
    names = {name for name in load_file(small / "model.safetensors") if name.startswith("mtp.")}
    assert {"mtp.fc.weight", "mtp.norm.weight", "mtp.pre_fc_norm_embedding.weight",
            "mtp.pre_fc_norm_hidden.weight", "mtp.layers.0.self_attn.q_proj.weight",
            "mtp.layers.0.mlp.experts.3.up_proj.weight"} <= names  # fmt: skip
    assert not any("linear_attn" in name for name in names)


def test_same_seed_same_weights(small, tmp_path):
    again = write_checkpoint(tmp_path / "again", SMALL)
    other = write_checkpoint(tmp_path / "other", dataclasses.replace(SMALL, seed=1))
    weights = (small / "model.safetensors").read_bytes()
    assert (again / "model.safetensors").read_bytes() == weights
    assert (other / "model.safetensors").read_bytes() != weights


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype(tmp_path, dtype):
    path = write_checkpoint(tmp_path / "model", dataclasses.replace(SMALL, dtype=dtype))
    tensors = load_file(path / "model.safetensors").values()
    assert {str(tensor.dtype) for tensor in tensors} == {f"torch.{dtype}"}
    assert json.loads((path / "config.json").read_text())["dtype"] == dtype


def test_dense_keeps_one_moe_layer_for_vllm():
    config = model_config(dataclasses.replace(SMALL, experts=0))
    assert config["mlp_only_layers"] == [1, 2, 3]
    assert config["num_experts"] == 2


def test_each_word_is_one_token_and_text_survives(small):
    tokenizer = AutoTokenizer.from_pretrained(small)
    assert len(tokenizer) == SMALL.vocab_size
    assert len(tokenizer(f" {word(0)}" * 65)["input_ids"]) == 65
    assert len(tokenizer("x")["input_ids"]) == 1
    text = f"Grüße, {word(1)} {word(2)}!\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer(chat)["input_ids"].count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value_heads": 3}, "value_heads = 3: give a multiple of key_heads = 2"),
        ({"attention_heads": 3}, "attention_heads = 3: give a multiple of attention_kv_heads = 2"),
        ({"hidden_size": 100}, "hidden_size = 100: give a multiple of 32"),
        ({"head_dim": 0}, "head_dim is 0: give at least 1"),
        ({"layers": -1}, "layers = -1: give a whole number"),
        ({"seed": 1.5}, "seed = 1.5: give a whole number"),
        ({"full_attention_interval": 9}, "full_attention_interval = 9 with 8 layers"),
        ({"experts": 1}, "experts = 1: give 0 for dense, or at least 2"),
        ({"vocab_size": 100}, "vocab_size = 100: give 260 to"),
        ({"dtype": "float16"}, "dtype = 'float16': give float32 or bfloat16"),
        ({"family": "llama"}, "family = 'llama': give qwen3_next or qwen3_5"),
        ({"family": "qwen3_5", "vocab_size": 263}, "vocab_size = 263: give 264 to"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(ValueError, match=message):
        TinySizes(**change)


def test_bad_options_write_nothing(tmp_path, capsys):
    assert main([str(tmp_path / "model"), "--value-heads", "3"]) == 2
    assert "give a multiple of key_heads" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_refuses_a_folder_of_somebody_else(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("dear")
    with pytest.raises(FileExistsError, match=f"has no {MARKER}"):
        write_checkpoint(tmp_path / "model", SMALL)
    assert (tmp_path / "model" / "thesis.txt").read_text() == "dear"


def test_keeps_the_same_and_replaces_other_sizes(tmp_path):
    path = write_checkpoint(tmp_path / "model", SMALL)
    written = (path / "model.safetensors").stat()
    write_checkpoint(path, SMALL)
    assert (path / "model.safetensors").stat() == written
    write_checkpoint(path, dataclasses.replace(SMALL, seed=1))
    assert (path / "model.safetensors").stat() != written
    assert json.loads((path / MARKER).read_text())["seed"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]  # no scratch folder left


def test_replaces_a_checkpoint_of_an_older_format(tmp_path):
    path = write_checkpoint(tmp_path / "model", SMALL)
    marker = json.loads((path / MARKER).read_text())
    (path / MARKER).write_text(json.dumps(marker | {"format": FORMAT - 1}))
    (path / "config.json").unlink()
    write_checkpoint(path, SMALL)
    assert (path / "config.json").is_file()
