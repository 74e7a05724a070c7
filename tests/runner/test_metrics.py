# SPDX-License-Identifier: Apache-2.0
"""What workers publish, read as vLLM's API servers read it: from another process."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

PUBLISH = """
import sys
from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.runner.metrics import GDNMetrics
stats = GDNStats(pool_bytes=9, steps=100)  # counted before anybody reads
metrics = GDNMetrics(stats, int(sys.argv[1]), 0)
for step in range(4):
    stats.steps += 1
    if step % 2:
        stats.prefill_steps += 1
        stats.plans_built += 1
        stats.plans_reused += 2
        stats.bytes_copied += 1000
        stats.host_ns += 50_000
    metrics.publish()
metrics.publish()  # nothing new
"""
SCRAPE = """
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def python(script: str, *arguments: str, folder) -> str:
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-P", "-c", script, *arguments],
        env=environment, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def scraped(tmp_path_factory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("metrics")
    for worker in ("0", "1"):
        python(PUBLISH, worker, folder=folder)
    text = python(SCRAPE, folder=folder)
    return {name: float(value) for name, value in re.findall(r"^(\w+:\S+) (\S+)$", text, re.M)}


@pytest.mark.parametrize("worker", ["0", "1"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps_total", 4),
        ("prefill_steps_total", 2),
        ("plans_built_total", 2),
        ("plans_reused_total", 4),
        ("bytes_copied_total", 2000),
        ("metadata_host_seconds_count", 2),
        ("metadata_host_seconds_sum", 1e-4),
    ],
)
def test_all_workers_counts_are_merged(scraped, worker, name, value):
    labels = f'{{engine="0",worker="{worker}"}}'
    assert scraped[f"ascend_gdn:{name}{labels}"] == pytest.approx(value)


def test_the_histogram_has_the_host_time(scraped):
    name = 'ascend_gdn:metadata_host_seconds_bucket{{engine="0",le="{}",worker="0"}}'
    assert scraped[name.format("4e-05")] == 0
    assert scraped[name.format("6e-05")] == 2
