# SPDX-License-Identifier: Apache-2.0
"""What training does to the folder that it is given, with a training that takes no time."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import train_recall
from train_recall import WEIGHTS, main


@pytest.fixture
def starts(monkeypatch) -> list[torch.Tensor]:
    """The first layer's weights that each training starts from."""
    seen: list[torch.Tensor] = []

    def train(model, mtp, seed):
        seen.append(model.model.embed_tokens.weight.clone())
        model.model.embed_tokens.weight.requires_grad_(False).fill_(len(seen))

    monkeypatch.setattr(train_recall, "train", train)
    monkeypatch.setattr(train_recall, "report", lambda *_: None)
    return seen


def embedding(path) -> torch.Tensor:
    return load_file(path / WEIGHTS)["model.embed_tokens.weight"]


def test_trains_from_random_weights_each_time(starts, tmp_path):
    out = tmp_path / "model"
    for count in (1, 2):
        assert main([str(out)]) == 0
        assert (embedding(out) == count).all()
        assert not list(out.glob(".training*"))
    assert torch.equal(*starts)


def test_weights_stay_if_training_ends_early(starts, tmp_path, monkeypatch):
    out = tmp_path / "model"
    main([str(out)])

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_recall, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main([str(out)])
    assert (embedding(out) == 1).all()


def test_a_folder_of_others_is_left_alone(starts, tmp_path, capsys):
    (tmp_path / "mine").write_text("")
    assert main([str(tmp_path)]) == 2
    assert "give another folder" in capsys.readouterr().err
    assert starts == []
