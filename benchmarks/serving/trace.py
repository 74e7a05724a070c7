# SPDX-License-Identifier: Apache-2.0
"""Where the time of a load goes, read off a trace of torch's profiler."""

import gzip
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

STEP = "execute_context_"
"""How vLLM marks a step; the number of its prompts follows (annotate_profile, gpu_worker.py)."""
GDN_OPERATOR = "gdn_attention_core"
"""How the names of the operators end that vLLM runs a GDN layer in, a prefix for each platform."""
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


class TraceError(RuntimeError):
    """There is no trace of a step with a prefill."""


def read_trace(folder: Path) -> list[dict[str, Any]]:
    """The events of the first worker's newest trace in ``folder``; raises TraceError for none."""
    traces = sorted(folder.glob("*.pt.trace.json*"), key=lambda file: file.stat().st_mtime)
    files = [file for file in traces if re.search(r"rank-?0\.", file.name)]
    if not files:
        raise TraceError(f"{folder}: found no trace of torch's profiler for the first worker")
    opened = gzip.open if files[-1].suffix == ".gz" else open
    with opened(files[-1], "rt") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return events


def run_costs(events: Iterable[Mapping[str, Any]], runs: int) -> dict[str, float]:
    """What each of ``runs`` runs of a load took, in the mean, by a trace that has no other work.

    Host times are longer than without the profiler, the more so the more operators there are.

    Raises:
        TraceError: There is no step with a prefill.
    """
    timed = [event for event in events if event.get("ph") == "X"]
    steps = [
        event
        for event in timed
        if event["cat"] == "user_annotation" and event["name"].startswith(STEP)
    ]
    if all(event["name"].startswith(f"{STEP}0(") for event in steps):
        raise TraceError("the trace has no step with a prefill")
    kernels = [event for event in timed if event["cat"] == "kernel"]
    copies = [event for event in timed if event["cat"] == "gpu_memcpy"]
    on_device = [*kernels, *copies, *(event for event in timed if event["cat"] == "gpu_memset")]
    layers = [event for event in timed if event["name"].endswith(GDN_OPERATOR)]
    sent = [event["name"] for event in copies if event["name"].startswith("Memcpy HtoD")]
    totals = {
        "steps": len(steps),
        "step_host_ms": milliseconds(steps),
        "gdn_host_ms": milliseconds(layers),
        "gdn_layers": len(layers),
        "device_busy_ms": busy_milliseconds(on_device),
        "kernels": len(kernels),
        "pinned_copies": sum("Pinned" in name for name in sent),
        "pageable_copies": sum("Pageable" in name for name in sent),
        "waits": sum(event["name"] in WAITS for event in timed),
    }
    return {name: total / runs for name, total in totals.items()}


def milliseconds(events: Iterable[Mapping[str, Any]]) -> float:
    return sum(float(event["dur"]) for event in events) / 1e3


def busy_milliseconds(events: Iterable[Mapping[str, Any]]) -> float:
    """How long at least one of ``events`` was under way."""
    busy, until = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: float(event["ts"])):
        start, end = float(event["ts"]), float(event["ts"]) + float(event["dur"])
        if end > until:
            busy += end - max(start, until)
            until = end
    return busy / 1e3
