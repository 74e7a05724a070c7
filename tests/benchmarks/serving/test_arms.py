# SPDX-License-Identifier: Apache-2.0
"""Which arms there are, with which flags, on which cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from serving import arms as arms_module
from serving.arms import Arm, arms_of, on_cores, rotated, shares
from serving.options import parse

COMMON = ["--out", "nowhere", "--worker-cls", "ascend_gdn.runner.CPUWorker"]


def arms(*arguments: str) -> dict[str, Arm]:
    return {arm.name: arm for arm in arms_of(parse([*COMMON, *arguments]))}


def value(arm: Arm, flag: str) -> str:
    """The one that counts: argparse takes the last."""
    places = [place for place, each in enumerate(arm.flags) if each == flag]
    return arm.flags[places[-1] + 1]


def test_four_arms_by_default():
    made = arms()
    assert [*made] == ["stock-512", "ours-512", "stock-2048", "ours-2048"]
    assert [arm.stock for arm in made.values()] == ["stock-512"] * 2 + ["stock-2048"] * 2
    for name, arm in made.items():
        assert ("--worker-cls" in arm.flags) == name.startswith("ours")
        sizes = arm.flags[arm.flags.index("--cudagraph-capture-sizes") + 1 :]
        expected = [str(2**i) for i in range(12 if name.endswith("2048") else 10)]
        assert list(sizes[: len(expected)]) == expected
        assert sizes[len(expected) :] == () or sizes[len(expected)].startswith("--")
        assert value(arm, "--attention-backend") == "FLASH_ATTN"
        assert value(arm, "--gpu-memory-utilization") == "0.22"


def test_captures_that_are_no_power_of_two():
    flags = arms("--captures", "600")["ours-600"].flags
    at = flags.index("--cudagraph-capture-sizes")
    assert flags[at + 9 : at + 12] == ("256", "512", "600")


def test_without_captures_there_are_two_arms_that_vllm_decides_for():
    for arguments in (["--captures"], ["--protocol"]):
        made = arms(*arguments)
        assert [*made] == ["stock", "ours"]
        assert made["ours"].stock == "stock"
        assert all("--cudagraph-capture-sizes" not in arm.flags for arm in made.values())


def test_prefill_backends_of_each_side():
    made = arms("--captures", "8")
    assert value(made["stock-8"], "--gdn-prefill-backend") == "triton"
    assert "--gdn-prefill-backend" not in made["ours-8"].flags
    made = arms("--captures", "8", "--gdn-stock", "auto", "--gdn-ours", "flashinfer")
    assert "--gdn-prefill-backend" not in made["stock-8"].flags
    assert value(made["ours-8"], "--gdn-prefill-backend") == "flashinfer"


def test_the_callers_flags_count():
    made = arms("--attention-backend", "auto", "--", "--max-num-seqs", "7")
    for arm in made.values():
        assert "--attention-backend" not in arm.flags
        assert value(arm, "--max-num-seqs") == "7"


@pytest.mark.parametrize(
    ("arguments", "drafts"), [(["--spec", "2"], 2), (["--seed-flags"], 3), ([], None)]
)
def test_drafts(arguments, drafts):
    for arm in arms(*arguments).values():
        assert ("--speculative-config" in arm.flags) == (drafts is not None)
        if drafts:
            config = json.loads(value(arm, "--speculative-config"))
            assert config == {"method": "mtp", "num_speculative_tokens": drafts}


def test_engines_one_at_a_time_have_the_device_to_themselves():
    for arm in arms("--servers", "turns").values():
        assert "--gpu-memory-utilization" not in arm.flags
        assert arm.cores == os.sched_getaffinity(0)


def test_a_folder_is_served_as_the_caller_says(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for arm in arms("--model", str(tmp_path)).values():
        ours = {"--load-format", "--kv-cache-memory-bytes", "--attention-backend"}
        assert not {*ours, "--gdn-prefill-backend"} & {*arm.flags}


def test_vllm_knows_the_flags(tmp_path):
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    made = arms("--spec", "3", "--model", "qwen3_5", "--", "--moe-backend", "triton")
    for arm in made.values():
        parsed = EngineArgs.from_cli_args(parser.parse_args(["--model", str(tmp_path), *arm.flags]))
        assert max(parsed.cudagraph_capture_sizes) == arm.captures
        assert parsed.kv_cache_memory_bytes == 4 * 2**30


def test_cores_of_each_arm_are_its_own(monkeypatch):
    monkeypatch.setattr(arms_module.os, "sched_getaffinity", lambda _: set(range(16)))
    assert [sorted(arm.cores) for arm in arms().values()] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]
    ]  # fmt: skip
    # The protocol's client has those that are left.
    assert [sorted(arm.cores) for arm in arms("--protocol").values()] == [
        [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]
    ]  # fmt: skip


def test_no_side_is_given_what_the_other_compiled(monkeypatch):
    for name, value in {"VLLM_CACHE_ROOT": "/kept", "XDG_CACHE_HOME": "/caches"}.items():
        monkeypatch.setenv(name, value)
    roots = {name: arm.environment["VLLM_CACHE_ROOT"] for name, arm in arms().items()}
    assert roots["ours-512"] == roots["ours-2048"] == "/kept/ours"
    assert roots["stock-512"] == "/kept/stock"
    monkeypatch.delenv("VLLM_CACHE_ROOT")
    assert Arm("ours", None).environment["VLLM_CACHE_ROOT"] == "/caches/vllm/ours"


def test_too_few_cores_are_shared():
    assert shares({3, 1, 2}, 4) == [[1, 2, 3]] * 4
    assert shares({1, 2, 3}, 2) == [[1], [2]]


def test_what_is_started_on_cores_keeps_to_them():
    before = os.sched_getaffinity(0)
    one = {min(before)}
    with on_cores(one):
        asked = "import os; print(os.sched_getaffinity(0))"
        said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    assert said.stdout.strip() == str(one)
    assert os.sched_getaffinity(0) == before


def test_each_is_first_in_turn():
    assert [rotated("abc", by)[0] for by in range(4)] == ["a", "b", "c", "a"]
    assert rotated("abc", 1) == ["b", "c", "a"]
