# SPDX-License-Identifier: Apache-2.0
"""What counts as a round, which rounds count, and the ratios."""

from __future__ import annotations

import copy
import json
import statistics

import pytest

from serving.arms import Arm
from serving.loads import Load
from serving.report import (
    Round,
    RoundFailedError,
    add_device_busy,
    checked_metrics,
    rounds_as_json,
    summary,
    table,
    without_texts,
)

ARMS = [Arm("stock", None), Arm("ours", None)]
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
    """For each arm and start the TTFTs of its rounds."""
    made = []
    for arm, starts in ttfts.items():
        for start, values in enumerate(starts):
            for index, ttft in enumerate(values):
                result = client_result(load, ttft)
                metrics = checked_metrics(result, load)
                made.append(Round(load.name, start, index, arm, metrics, without_texts(result)))
    return made


def summary_of(rounds, loads=(LOAD,), arms=ARMS, average=statistics.mean):
    return summary(rounds, loads, arms, average)


def test_means_without_the_first_round_and_ratios_of_neighbours():
    rounds = rounds_of({"stock": [[9000, 100, 300]], "ours": [[1, 80, 150]]})
    row = summary_of(rounds)["a load"]["mean_ttft_ms"]
    assert row["arms"] == {"stock": 200, "ours": 115}
    assert row["to_stock"]["ours"]["ratio"] == pytest.approx(0.575)
    assert row["to_stock"]["ours"]["pair_ratios"] == pytest.approx([0.8, 0.5])


def test_medians():
    rounds = rounds_of({"stock": [[9000, 1, 2, 90]], "ours": [[1, 1, 3, 5]]})
    row = summary_of(rounds, average=statistics.median)["a load"]["mean_ttft_ms"]
    assert row["arms"] == {"stock": 2, "ours": 3}


def test_each_of_ours_is_compared_with_stock_that_has_the_same_captures():
    arms = [Arm(side, tokens) for tokens in (512, 2048) for side in ("stock", "ours")]
    ttfts = {"stock-512": 100, "ours-512": 50, "stock-2048": 80, "ours-2048": 20}
    rounds = rounds_of({arm: [[1, ttft]] for arm, ttft in ttfts.items()})
    row = summary_of(rounds, arms=arms)["a load"]["mean_ttft_ms"]
    assert row["arms"] == ttfts
    ratios = {arm: each["ratio"] for arm, each in row["to_stock"].items()}
    assert ratios == {"ours-512": 0.5, "ours-2048": 0.25}


def test_how_many_times_the_devices_busy_time_a_run_takes():
    figures = {"1x8": {"latency_ms": {"arms": {"stock": 9.0, "ours": 6.0}, "to_stock": {}}}}
    on_cpu = {"device_busy_ms": 0.0}
    add_device_busy(figures, {"1x8": {"ours": {"device_busy_ms": 4.0}}, "1x9": {"ours": on_cpu}})
    assert figures["1x8"]["device_busy_ms"]["arms"] == {"ours": 4.0}
    assert figures["1x8"]["times_device_busy"]["arms"] == {"ours": 1.5}
    before = copy.deepcopy(figures)
    add_device_busy(figures, {"1x8": {"ours": on_cpu}})
    assert figures == before


def test_the_first_round_of_every_start_is_dropped():
    starts = [[9000, 100], [9000, 200]]
    rounds = rounds_of({"stock": starts, "ours": starts})
    row = summary_of(rounds)["a load"]["mean_ttft_ms"]
    assert row["arms"]["stock"] == 150
    assert [one["kept"] for one in rounds_as_json(rounds)] == [False, True] * 4


def test_pairs_do_not_depend_on_the_order_that_rounds_came_in():
    rounds = rounds_of({"stock": [[9, 100, 300]], "ours": [[9, 80, 150]]})
    assert summary_of(rounds[::-1]) == summary_of(rounds)


def test_loads_are_kept_apart():
    rounds = rounds_of({"stock": [[1, 100]], "ours": [[1, 50]]})
    rounds += rounds_of({"stock": [[1, 30]], "ours": [[1, 60]]}, FIRST_TOKEN)
    figures = summary_of(rounds, [LOAD, FIRST_TOKEN])
    assert figures["a load"]["mean_ttft_ms"]["to_stock"]["ours"]["ratio"] == 0.5
    assert figures["first token"]["mean_ttft_ms"]["to_stock"]["ours"]["ratio"] == 2


def test_one_token_has_no_time_per_output_token():
    rounds = rounds_of({"stock": [[1, 100]], "ours": [[1, 50]]}, FIRST_TOKEN)
    keys = summary_of(rounds, [FIRST_TOKEN])["first token"].keys()
    assert keys == {"mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "request_throughput"}


@pytest.mark.parametrize(
    "ttfts",
    [
        {"stock": [[1]], "ours": [[1]]},  # only rounds that are dropped
        {"stock": [[1, 2]], "ours": []},  # cut off after one side
        {"stock": [[1, 2], [1]], "ours": [[1], [1, 2]]},  # no round that both have
    ],
)
def test_what_cannot_be_compared_is_left_out(ttfts):
    assert summary_of(rounds_of(ttfts)) == {}


def test_a_round_that_was_cut_off_does_not_count():
    rounds = rounds_of({"stock": [[9, 100, 300]], "ours": [[9, 80]]})
    assert summary_of(rounds)["a load"]["mean_ttft_ms"]["arms"] == {"stock": 100, "ours": 80}


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
    with pytest.raises(RoundFailedError, match=said):
        checked_metrics(client_result() | change, LOAD)


def test_what_is_written_is_json_and_holds_no_texts():
    rounds = rounds_of({"stock": [[1, 100]], "ours": [[1, 50]]})
    written = json.loads(json.dumps(rounds_as_json(rounds)))
    assert written[1]["raw"]["ttfts"] == [0.1] * 4
    assert "generated_texts" not in written[1]["raw"]


def test_the_table_says_all_arms_and_the_ratio():
    rounds = rounds_of({"stock": [[1, 100]], "ours": [[1, 93.3]]})
    figures = summary_of(rounds)
    figures["a load"]["device_busy_ms"] = {"arms": {"ours": 50.0}, "to_stock": {}}
    lines = [" ".join(line.split()) for line in table(figures, ARMS).splitlines()]
    assert "stock ours ours / stock" in lines
    assert "mean TTFT, ms 100.00 93.30 0.933 (0.933 to 0.933)" in lines
    assert "device busy, ms - 50.00" in lines


def test_checking_leaves_the_result_alone():
    result = client_result()
    before = copy.deepcopy(result)
    checked_metrics(result, LOAD)
    assert result == before
