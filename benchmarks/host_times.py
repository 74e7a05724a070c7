# SPDX-License-Identifier: Apache-2.0
"""Two sides on CUDA, in turn: how long the host is busy, and how long until the device is done."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

Times = Callable[[], tuple[float, float]]
"""One round of a side: microseconds of the host, and all."""


def compare_host_times(
    title: str,
    columns: tuple[str, ...],
    names: tuple[str, ...],
    workloads: Iterable[tuple[str, tuple[Times, Times]]],
    rounds: int,
    json_file: Path | None,
) -> None:
    """Print a row for each of ``workloads``: both sides' medians, and the first's to the second's.

    Args:
        title: Of the table.
        columns: Its six heads: host and all of the first side, of the second, and the ratios.
        names: The same six in the file.
        workloads: Names, and what runs a round of each side.
        rounds: After one to warm up, compile and tune.
        json_file: Where the figures go too.
    """
    table = Table(title=title)
    for column in ("workload", *columns):
        table.add_column(column, justify="left" if column == "workload" else "right")
    results = {}
    for workload, sides in workloads:
        with torch.inference_mode():  # as vLLM's execute_model runs
            for side in sides:
                side()
            times = [[time for side in sides for time in side()] for _ in range(rounds)]
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        ratios = [statistics.median(row[i] / row[i + 2] for row in times) for i in (0, 1)]
        results[workload] = dict(zip(names, [*medians, *ratios], strict=True))
        table.add_row(
            workload,
            *(f"{each:.0f}" for each in medians),
            *(f"{each:.2f}x" for each in ratios),
        )
    Console(width=110).print(table)
    if json_file:
        json_file.write_text(json.dumps(results, indent=2) + "\n")
