# SPDX-License-Identifier: Apache-2.0
"""From the client's results to figures: what counts as a round, means, ratios."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serving.loads import Load


class RoundFailedError(RuntimeError):
    """A round that must not be reported; the message says what is wrong with it."""


@dataclass(frozen=True)
class Metric:
    key: str
    """The name in the result of vLLM's client."""
    label: str
    only_decoding: bool = False


METRICS = (
    Metric("mean_ttft_ms", "mean TTFT, ms"),
    Metric("median_ttft_ms", "median TTFT, ms"),
    Metric("p99_ttft_ms", "P99 TTFT, ms"),
    Metric("mean_tpot_ms", "mean TPOT, ms", only_decoding=True),
    Metric("output_throughput", "TPS, output tokens/s", only_decoding=True),
    Metric("request_throughput", "requests/s"),
)


@dataclass(frozen=True)
class Round:
    """One side's figures of one round; ``index`` counts from 0 anew in every start."""

    load: str
    start: int
    index: int
    side: str
    metrics: Mapping[str, float]
    raw: Mapping[str, Any]


def metrics_of(load: Load) -> list[Metric]:
    return [metric for metric in METRICS if load.decodes or not metric.only_decoding]


def checked_round(
    result: Mapping[str, Any], load: Load, start: int, index: int, side: str
) -> Round:
    """``result`` of vLLM's client as a Round; raises RoundFailedError unless it is whole."""
    where = f"{side}, {load.name}, round {index + 1}"
    errors = Counter(str(error).strip() for error in result["errors"] if error)
    if result["completed"] != load.num_prompts or result["failed"] or errors:
        said = "; ".join(f"{count} x {error[-500:]}" for error, count in errors.most_common(3))
        raise RoundFailedError(
            f"{where}: {result['completed']} of {load.num_prompts} requests completed"
            + (f": {said}" if said else ", and the client does not say why")
        )
    expected = load.num_prompts * load.output_len
    if result["total_output_tokens"] != expected:
        raise RoundFailedError(
            f"{where}: {result['total_output_tokens']} tokens came, and {expected} were asked for"
        )
    metrics = {metric.key: float(result[metric.key]) for metric in metrics_of(load)}
    wrong = [key for key, value in metrics.items() if not value > 0]
    if wrong:
        raise RoundFailedError(f"{where}: {wrong[0]} = {metrics[wrong[0]]}, which cannot be")
    raw = {
        key: value
        for key, value in result.items()
        if isinstance(value, (int, float)) or key in ("input_lens", "ttfts")
    }
    return Round(load.name, start, index, side, metrics, raw)


def kept(rounds: Sequence[Round]) -> list[Round]:
    """Without the first round of each start, which the protocol drops."""
    return [one for one in rounds if one.index > 0]


def summary(
    rounds: Sequence[Round], loads: Sequence[Load], sides: tuple[str, str]
) -> dict[str, Any]:
    """For each load and metric both sides' means over the kept rounds, and ours to stock's.

    ``pair_ratios`` are those of neighbouring rounds: their spread says how noisy the machine is. A
    load that has no kept round of both sides, or not as many of one as of the other, is left out.
    """
    stock, ours = sides
    figures: dict[str, Any] = {}
    for load in loads:
        of = {
            side: {
                (r.start, r.index): r for r in kept(rounds) if (r.load, r.side) == (load.name, side)
            }
            for side in sides
        }
        if not of[stock] or of[stock].keys() != of[ours].keys():
            continue
        figures[load.name] = {}
        for metric in metrics_of(load):
            values = {
                side: [of[side][at].metrics[metric.key] for at in sorted(of[side])]
                for side in sides
            }
            means = {side: statistics.mean(values[side]) for side in sides}
            figures[load.name][metric.key] = {
                **means,
                "ratio": means[ours] / means[stock],
                "change_percent": 100 * (means[ours] / means[stock] - 1),
                "pair_ratios": [b / a for a, b in zip(values[stock], values[ours], strict=True)],
            }
    return figures


def rounds_as_json(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    return [asdict(one) | {"kept": one.index > 0} for one in rounds]


def table(figures: Mapping[str, Any], sides: tuple[str, str]) -> str:
    """The summary in plain text."""
    labels = {metric.key: metric.label for metric in METRICS}
    lines = []
    for load, metrics in figures.items():
        lines += ["", load]
        head = f"  {'':22}{sides[0]:>12}{sides[1]:>12}{'change':>9}   pairs"
        lines.append(head)
        for key, row in metrics.items():
            pairs = row["pair_ratios"]
            lines.append(
                f"  {labels[key]:22}{row[sides[0]]:12.2f}{row[sides[1]]:12.2f}"
                f"{row['change_percent']:+8.1f}%   {min(pairs):.3f} to {max(pairs):.3f}"
            )
    return "\n".join(lines)
