# SPDX-License-Identifier: Apache-2.0
"""Folders without weights have the public models' sizes, and what a server reads at its start."""

from __future__ import annotations

import pytest
from transformers import AutoConfig, AutoTokenizer

from serving.dummy_model import PUBLIC_SIZES, dummy_config, weights_gigabytes, write_dummy_model


@pytest.mark.parametrize("family", PUBLIC_SIZES)
def test_transformers_reads_the_folder(tmp_path, family):
    sizes = PUBLIC_SIZES[family] | {"layers": 8, "experts": 16}
    write_dummy_model(tmp_path, dummy_config(family, **sizes), family)
    config = AutoConfig.from_pretrained(tmp_path).get_text_config()
    assert (config.num_hidden_layers, config.num_experts) == (8, 16)
    assert config.vocab_size == PUBLIC_SIZES[family]["vocab_size"]
    tokens = AutoTokenizer.from_pretrained(tmp_path)(" baba bebe")["input_ids"]
    assert len(tokens) == 2


def test_the_public_defaults_of_qwen3_5_are_those_of_transformers():
    from transformers.models.qwen3_5_moe import Qwen3_5MoeTextConfig

    public = Qwen3_5MoeTextConfig().to_dict()
    text = dummy_config("qwen3_5", **PUBLIC_SIZES["qwen3_5"])["text_config"]
    ours = {"max_position_embeddings", "rope_parameters", "bos_token_id", "eos_token_id", "dtype",
            "pad_token_id"}  # fmt: skip
    shared = (text.keys() & public.keys()) - ours
    assert len(shared) > 15
    assert {key: text[key] for key in shared} == {key: public[key] for key in shared}


def test_the_weights_of_the_public_models():
    sizes = {
        family: weights_gigabytes(dummy_config(family, **PUBLIC_SIZES[family]))
        for family in PUBLIC_SIZES
    }
    assert 60 < sizes["qwen3_5"] < 75  # 35 billion parameters, of two bytes
    assert 150 < sizes["qwen3_next"] < 165  # 80 billion


def test_one_layer_of_full_attention():
    sizes = PUBLIC_SIZES["qwen3_next"] | {"layers": 24, "full_attention_interval": 24}
    kinds = dummy_config("qwen3_next", **sizes)["layer_types"]
    assert kinds == ["linear_attention"] * 23 + ["full_attention"]


def test_refuses_more_experts_per_token_than_there_are():
    with pytest.raises(ValueError, match="8 experts per token, and there are 4"):
        dummy_config("qwen3_5", **PUBLIC_SIZES["qwen3_5"] | {"experts": 4})


def test_leaves_a_folder_with_weights_alone(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    config = dummy_config("qwen3_next", **PUBLIC_SIZES["qwen3_next"])
    with pytest.raises(ValueError, match="holds weights"):
        write_dummy_model(tmp_path, config, "qwen3_next")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("family", PUBLIC_SIZES)
def test_refuses_fewer_tokens_than_its_tokenizer_has(family):
    with pytest.raises(ValueError, match="vocab_size = 10: give"):
        dummy_config(family, **PUBLIC_SIZES[family] | {"vocab_size": 10})
