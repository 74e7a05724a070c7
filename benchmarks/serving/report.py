# SPDX-License-Identifier: Apache-2.0
"""From rounds to figures: what counts as a round, averages, ratios."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serving.arms import Arm
from serving.loads import Load

LABELS = {
    "latency_ms": "until all is done, ms",
    "mean_ttft_ms": "mean TTFT, ms",
    "median_ttft_ms": "median TTFT, ms",
    "p99_ttft_ms": "P99 TTFT, ms",
    "mean_tpot_ms": "mean TPOT, ms",
    "output_throughput": "output tokens/s",
    "prompt_throughput": "prompt tokens/s",
    "request_throughput": "requests/s",
    "device_busy_ms": "device busy, ms",
    "times_device_busy": "done / device busy",
}
"""The metrics of a round, those of vLLM's client by its names, and of a profile."""
CLIENT_METRICS = ("mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "request_throughput")
CLIENT_DECODE_METRICS = ("mean_tpot_ms", "output_throughput")


class RoundFailedError(RuntimeError):
    """A round that must not be reported; the message says what is wrong with it."""


@dataclass(frozen=True)
class Round:
    """One arm's figures of one round; ``index`` counts from 0 anew in every start."""

    load: str
    start: int
    index: int
    arm: str
    metrics: Mapping[str, float]
    raw: Any


def checked_metrics(result: Mapping[str, Any], load: Load) -> dict[str, float]:
    """The metrics in ``result`` of vLLM's client; raises RoundFailedError unless it is whole."""
    errors = Counter(str(error).strip() for error in result["errors"] if error)
    if result["completed"] != load.num_prompts or result["failed"] or errors:
        said = "; ".join(f"{count} x {error[-500:]}" for error, count in errors.most_common(3))
        raise RoundFailedError(
            f"{result['completed']} of {load.num_prompts} requests completed"
            + (f": {said}" if said else ", and the client does not say why")
        )
    expected = load.num_prompts * load.output_len
    if result["total_output_tokens"] != expected:
        raise RoundFailedError(
            f"{result['total_output_tokens']} tokens came, and {expected} were asked for"
        )
    keys = [*CLIENT_METRICS, *(CLIENT_DECODE_METRICS if load.decodes else ())]
    metrics = {key: float(result[key]) for key in keys}
    wrong = [key for key, value in metrics.items() if not value > 0]
    if wrong:
        raise RoundFailedError(f"{wrong[0]} = {metrics[wrong[0]]}, which cannot be")
    return metrics


def without_texts(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is worth keeping of a result of vLLM's client."""
    return {
        key: value
        for key, value in result.items()
        if isinstance(value, (int, float)) or key in ("input_lens", "ttfts")
    }


def kept(rounds: Sequence[Round]) -> list[Round]:
    """Without the first round of each start, which the protocol drops."""
    return [one for one in rounds if one.index > 0]


def summary(
    rounds: Sequence[Round],
    loads: Sequence[Load],
    arms: Sequence[Arm],
    average: Callable[[list[float]], float],
) -> dict[str, Any]:
    """For each load and metric the arms' averages over the kept rounds, and ours to stock's.

    ``pair_ratios`` are those of one round: their spread says how noisy the machine is. Only rounds
    that every arm has count; a load that has none is left out.
    """
    figures: dict[str, Any] = {}
    for load in loads:
        of = {
            arm.name: {
                (r.start, r.index): r.metrics
                for r in kept(rounds)
                if (r.load, r.arm) == (load.name, arm.name)
            }
            for arm in arms
        }
        places = sorted(set.intersection(*(set(each) for each in of.values())))
        if not places:
            continue
        figures[load.name] = {}
        for metric in of[arms[0].name][places[0]]:
            values = {name: [each[at][metric] for at in places] for name, each in of.items()}
            averages = {name: average(each) for name, each in values.items()}
            figures[load.name][metric] = {
                "arms": averages,
                "to_stock": {
                    arm.name: {
                        "ratio": averages[arm.name] / averages[arm.stock],
                        "pair_ratios": [
                            ours / stock
                            for ours, stock in zip(values[arm.name], values[arm.stock], strict=True)
                        ],
                    }
                    for arm in arms
                    if arm.name != arm.stock
                },
            }
    return figures


def add_device_busy(
    figures: dict[str, Any], costs: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> None:
    """To each load's figures the device's busy time, and how many times it a run took."""
    for load, of in costs.items():
        busy = {arm: each["device_busy_ms"] for arm, each in of.items() if each["device_busy_ms"]}
        if load not in figures or not busy:
            continue
        taken = figures[load]["latency_ms"]["arms"]
        figures[load]["device_busy_ms"] = {"arms": busy, "to_stock": {}}
        times = {arm: taken[arm] / busy[arm] for arm in busy}
        figures[load]["times_device_busy"] = {"arms": times, "to_stock": {}}


def rounds_as_json(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    return [asdict(one) | {"kept": one.index > 0} for one in rounds]


def table(figures: Mapping[str, Any], arms: Sequence[Arm]) -> str:
    """The summary in plain text: a column for each arm, and for each of ours its ratio to stock."""
    names = [arm.name for arm in arms]
    ours = [arm for arm in arms if arm.name != arm.stock]
    lines = []
    for load, metrics in figures.items():
        head = "".join(f"{name:>12}" for name in names)
        ratios = "".join(f"   {f'{arm.name} / {arm.stock}':>24}" for arm in ours)
        lines += ["", load, f"  {'':22}{head}{ratios}"]
        for metric, row in metrics.items():
            values = "".join(
                f"{row['arms'][name]:12.2f}" if name in row["arms"] else f"{'-':>12}"
                for name in names
            )
            line = f"  {LABELS[metric]:22}{values}"
            for to_stock in row["to_stock"].values():
                pairs = to_stock["pair_ratios"]
                text = f"{to_stock['ratio']:.3f} ({min(pairs):.3f} to {max(pairs):.3f})"
                line += f"   {text:>24}"
            lines.append(line)
    return "\n".join(lines)
