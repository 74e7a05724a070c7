# SPDX-License-Identifier: Apache-2.0
"""The rounds as a picture: a row for each load, a column for each metric.

    python -m serving.plot RESULTS_JSON

The comparison draws it by itself where matplotlib is installed.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.report import LABELS

COLOURS = ("tab:grey", "tab:blue", "black", "tab:cyan", "tab:brown", "tab:green")


def plot(results: Mapping[str, Any], file: Path) -> None:
    """Write ``file`` from what results.json holds; raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    shown = {
        load: {metric: row for metric, row in metrics.items() if row["to_stock"]}
        for load, metrics in results["summary"].items()
    }
    if not shown:
        return
    columns = max(map(len, shown.values()))
    figure = Figure(figsize=(3.2 * columns, 0.8 + 2.4 * len(shown)), layout="constrained")
    model, device = results["model"], results["machine"]["device"]
    figure.suptitle(f"{model} on {device}, {results['date']}", fontsize=10)
    grid = figure.subplots(len(shown), columns, squeeze=False)
    for (load, metrics), axes_row in zip(shown.items(), grid, strict=True):
        for axes, (metric, row) in zip(axes_row, metrics.items(), strict=False):
            for place, (arm, average) in enumerate(row["arms"].items()):
                colour = COLOURS[place % len(COLOURS)]
                rounds = [r for r in results["rounds"] if (r["load"], r["arm"]) == (load, arm)]
                values = [r["metrics"][metric] for r in rounds if r["kept"]]
                axes.plot(range(len(values)), values, "o-", color=colour, label=arm, lw=0.8)
                axes.axhline(average, color=colour, linestyle=":")
            changes = [100 * (ours["ratio"] - 1) for ours in row["to_stock"].values()]
            title = ", ".join(f"{change:+.1f} %" for change in changes)
            axes.set_title(f"{load}\n{LABELS[metric]}: {title}", fontsize=8)
            axes.set_xticks([])
            axes.tick_params(labelsize=7)
            axes.set_ylim(bottom=0)
        for axes in axes_row[len(metrics) :]:
            axes.set_axis_off()
    grid[0, 0].legend(fontsize=7, loc="lower left")
    figure.supxlabel("kept rounds in order; dotted: their average", fontsize=8)
    figure.savefig(file, dpi=80)


if __name__ == "__main__":
    written = Path(sys.argv[1])
    plot(json.loads(written.read_text()), written.with_suffix(".png"))
