# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from command_line import parser_of, require_cuda
from serving.options import parse


def test_counts_below_one_are_refused(capsys):
    assert parser_of("").parse_args(["--rounds", "3"]).rounds == 3
    for text in ("0", "-1", "many"):
        with pytest.raises(SystemExit):
            parser_of("").parse_args([f"--rounds={text}"])
        assert f"got '{text}', expected a whole number, 1 or more" in capsys.readouterr().err


def test_what_needs_a_gpu_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        require_cuda(parser_of(""))
    assert "got no CUDA device, expected one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--starts": "0"}, "got '0', expected a whole number, 1 or more"),
        ({"--rounds": "1"}, "give at least 2"),
        ({"--model": "nowhere"}, "there is no nowhere/config.json"),
        ({"--worker-cls": "GPUWorker"}, "got 'GPUWorker', expected module.Class"),
        ({"--worker-cls": "nothing.runner.GPUWorker"}, "expected module.Class"),
        ({"--loads": "16"}, "got '16', expected PROMPTSxTOKENS or"),
        ({"--layers": "8"}, "--layers, --experts, --full-attention-interval are of a named model"),
        ({"--out": "{model}/config.json"}, "which is no folder"),
    ],
)
def test_serving_refuses_before_it_starts_a_server(changes, message, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    options = {
        "--model": str(tmp_path),
        "--worker-cls": "ascend_gdn.runner.CPUWorker",
        "--out": str(tmp_path / "out"),
    }
    parse([text for option in options.items() for text in option])
    options |= changes
    given = [
        text.format(model=tmp_path)
        for option in options.items()
        for text in option
        if text is not None
    ]
    with pytest.raises(SystemExit):
        parse(given)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
