# SPDX-License-Identifier: Apache-2.0
"""Costs of a run, read off traces made here."""

from __future__ import annotations

import gzip
import json
import os

import pytest

from serving.trace import GDN_OPERATOR, TraceError, read_trace, run_costs


def event(cat: str, name: str, start: float, duration: float) -> dict[str, object]:
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": duration}


TWO_STEPS = [
    {"ph": "M", "name": "process_name"},
    event("user_annotation", "execute_context_1(512)_generation_0(0)", 0, 3000),
    event("user_annotation", "execute_context_1(512)_generation_0(0)", 9000, 5000),
    event("user_annotation", "execute_context_0(0)_generation_1(1)", 20000, 7000),
    event("gpu_user_annotation", "execute_context_1(512)_generation_0(0)", 0, 9000),
    event("cpu_op", f"vllm::qwen_{GDN_OPERATOR}", 100, 500),
    event("cpu_op", f"vllm::qwen_{GDN_OPERATOR}", 9100, 700),
    event("kernel", "a", 1000, 2000),
    event("kernel", "inside the first", 1500, 100),
    event("kernel", "overlaps the first", 2500, 1000),
    event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 5000, 500),
    event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 6000, 500),
    event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 7000, 500),
    event("cuda_runtime", "cudaEventSynchronize", 8000, 10),
]


def test_means_over_the_runs():
    assert run_costs(TWO_STEPS, runs=2) == {
        "steps": 1.5,
        "step_host_ms": 7.5,
        "gdn_host_ms": 0.6,
        "gdn_layers": 1,
        "device_busy_ms": pytest.approx((2.5 + 1.5) / 2),
        "kernels": 1.5,
        "pinned_copies": 0.5,
        "pageable_copies": 0.5,
        "waits": 0.5,
    }


def test_a_trace_without_a_prefill_is_refused():
    with pytest.raises(TraceError, match="no step with a prefill"):
        run_costs(TWO_STEPS[3:], runs=2)


def test_the_newest_trace_of_the_first_worker_is_read(tmp_path):
    with pytest.raises(TraceError, match="found no trace"):
        read_trace(tmp_path)
    files = {"rank0.3": [], "rank0.2": TWO_STEPS, "rank1.1": []}
    for newness, (name, events) in enumerate(files.items()):
        file = tmp_path / f"dp0_tp0_{name}.pt.trace.json.gz"
        with gzip.open(file, "wt") as opened:
            json.dump({"traceEvents": events}, opened)
        os.utime(file, (newness, newness))
    assert read_trace(tmp_path) == TWO_STEPS
