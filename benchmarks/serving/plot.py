# SPDX-License-Identifier: Apache-2.0
"""The rounds as a picture: a row for each load, a column for each metric."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving.loads import Load
from serving.report import Round, metrics_of


def plot(
    rounds: Sequence[Round],
    figures: dict[str, Any],
    loads: Sequence[Load],
    sides: tuple[str, str],
    title: str,
    file: Path,
) -> None:
    """Write ``file``; raises ImportError where matplotlib is not installed."""
    from matplotlib.figure import Figure

    shown = [load for load in loads if load.name in figures]
    columns = max(len(metrics_of(load)) for load in shown)
    figure = Figure(figsize=(3.2 * columns, 0.8 + 2.4 * len(shown)), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(shown), columns, squeeze=False)
    for load, row in zip(shown, grid, strict=True):
        for axes, metric in zip(row, metrics_of(load), strict=False):
            for side, colour in zip(sides, ("tab:grey", "tab:blue"), strict=True):
                points = [r for r in rounds if (r.load, r.side) == (load.name, side)]
                values = [r.metrics[metric.key] for r in points]
                axes.plot(range(len(points)), values, "o-", color=colour, label=side, lw=0.8)
                mean = figures[load.name][metric.key][side]
                axes.axhline(mean, color=colour, linestyle=":")
            change = figures[load.name][metric.key]["change_percent"]
            axes.set_title(f"{load.name}\n{metric.label}: {change:+.1f} %", fontsize=8)
            axes.set_xticks([])
            axes.tick_params(labelsize=7)
            axes.set_ylim(bottom=0)
        for axes in row[len(metrics_of(load)) :]:
            axes.set_axis_off()
    grid[0, 0].legend(fontsize=7, loc="lower left")
    figure.supxlabel("rounds in order; dotted: mean without the first of each start", fontsize=8)
    figure.savefig(file, dpi=80)
