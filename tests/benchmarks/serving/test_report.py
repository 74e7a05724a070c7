# SPDX-License-Identifier: Apache-2.0
"""What counts as a round, which rounds count, and the ratios."""

from __future__ import annotations

import copy
import json

import pytest

from serving.loads import Load
from serving.report import RoundFailedError, checked_round, rounds_as_json, summary, table

SIDES = ("stock", "ascend-gdn")
LOAD = Load("a load", input_len=8, output_len=10, num_prompts=4, max_concurrency=2)
FIRST_TOKEN = Load("first token", input_len=8, output_len=1, num_prompts=4, max_concurrency=2)


def client_result(load: Load = LOAD, ttft: float = 100.0, tps: float = 50.0) -> dict[str, object]:
    """What vLLM 0.23.0's client returns, as far as the report reads it."""
    return {
        "completed": load.num_prompts,
        "failed": 0,
        "errors": [""] * load.num_prompts,
        "total_output_tokens": load.num_prompts * load.output_len,
        "mean_ttft_ms": ttft,
        "median_ttft_ms": ttft,
        "p99_ttft_ms": 2 * ttft,
        "mean_tpot_ms": 5.0 if load.decodes else 0.0,
        "output_throughput": tps,
        "request_throughput": tps / load.output_len,
        "ttfts": [ttft / 1000] * load.num_prompts,
        "generated_texts": ["text"] * load.num_prompts,
    }


def rounds_of(ttfts: dict[str, list[list[float]]], load: Load = LOAD):
    """For each side and start the TTFTs of its rounds."""
    return [
        checked_round(client_result(load, ttft), load, start, index, side)
        for side, starts in ttfts.items()
        for start, values in enumerate(starts)
        for index, ttft in enumerate(values)
    ]


def test_means_without_the_first_round_and_ratios_of_neighbours():
    rounds = rounds_of({"stock": [[9000, 100, 300]], "ascend-gdn": [[1, 80, 150]]})
    row = summary(rounds, [LOAD], SIDES)["a load"]["mean_ttft_ms"]
    assert row["stock"] == 200
    assert row["ascend-gdn"] == 115
    assert row["ratio"] == pytest.approx(0.575)
    assert row["change_percent"] == pytest.approx(-42.5)
    assert row["pair_ratios"] == pytest.approx([0.8, 0.5])


def test_the_first_round_of_every_start_is_dropped():
    starts = [[9000, 100], [9000, 200]]
    rounds = rounds_of({"stock": starts, "ascend-gdn": starts})
    row = summary(rounds, [LOAD], SIDES)["a load"]["mean_ttft_ms"]
    assert row["stock"] == 150
    assert [one["kept"] for one in rounds_as_json(rounds)] == [False, True] * 4


def test_pairs_do_not_depend_on_the_order_that_rounds_came_in():
    rounds = rounds_of({"stock": [[9, 100, 300]], "ascend-gdn": [[9, 80, 150]]})
    assert summary(rounds[::-1], [LOAD], SIDES) == summary(rounds, [LOAD], SIDES)


def test_loads_are_kept_apart():
    rounds = rounds_of({"stock": [[1, 100]], "ascend-gdn": [[1, 50]]})
    rounds += rounds_of({"stock": [[1, 30]], "ascend-gdn": [[1, 60]]}, FIRST_TOKEN)
    figures = summary(rounds, [LOAD, FIRST_TOKEN], SIDES)
    assert figures["a load"]["mean_ttft_ms"]["ratio"] == 0.5
    assert figures["first token"]["mean_ttft_ms"]["ratio"] == 2


def test_one_token_has_no_time_per_output_token():
    rounds = rounds_of({"stock": [[1, 100]], "ascend-gdn": [[1, 50]]}, FIRST_TOKEN)
    keys = summary(rounds, [FIRST_TOKEN], SIDES)["first token"].keys()
    assert keys == {"mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "request_throughput"}


@pytest.mark.parametrize(
    "ttfts",
    [
        {"stock": [[1]], "ascend-gdn": [[1]]},  # only rounds that are dropped
        {"stock": [[1, 2]], "ascend-gdn": []},  # cut off after one side
        {"stock": [[1, 2, 3]], "ascend-gdn": [[1, 2]]},
    ],
)
def test_what_cannot_be_compared_is_left_out(ttfts):
    assert summary(rounds_of(ttfts), [LOAD], SIDES) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"completed": 3, "failed": 1, "errors": ["", "", "", "Connection lost"]},
            "1 x Connection",
        ),
        ({"completed": 3}, "3 of 4 requests completed"),
        ({"failed": 1}, "4 of 4 requests completed, and the client does not say why"),
        ({"errors": ["", "odd", "", ""]}, "1 x odd"),
        ({"total_output_tokens": 39}, "39 tokens came, and 40 were asked for"),
        ({"mean_ttft_ms": 0.0}, "mean_ttft_ms = 0.0"),
        ({"mean_tpot_ms": float("nan")}, "mean_tpot_ms = nan"),
    ],
)
def test_refuses_a_round_that_is_not_whole(change, said):
    with pytest.raises(RoundFailedError, match=said) as raised:
        checked_round(client_result() | change, LOAD, 0, 2, "stock")
    assert str(raised.value).startswith("stock, a load, round 3: ")


def test_what_is_written_is_json_and_holds_no_texts():
    rounds = rounds_of({"stock": [[1, 100]], "ascend-gdn": [[1, 50]]})
    written = json.loads(json.dumps(rounds_as_json(rounds)))
    assert written[1]["raw"]["ttfts"] == [0.1] * 4
    assert "generated_texts" not in written[1]["raw"]


def test_the_table_says_both_sides_and_the_change():
    rounds = rounds_of({"stock": [[1, 100]], "ascend-gdn": [[1, 93.3]]})
    lines = [
        " ".join(line.split()) for line in table(summary(rounds, [LOAD], SIDES), SIDES).splitlines()
    ]
    assert "mean TTFT, ms 100.00 93.30 -6.7% 0.933 to 0.933" in lines


def test_checking_leaves_the_result_alone():
    result = client_result()
    before = copy.deepcopy(result)
    checked_round(result, LOAD, 0, 0, "stock")
    assert result == before
