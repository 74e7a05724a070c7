# SPDX-License-Identifier: Apache-2.0
"""What workers publish, read as vLLM's API servers read it: from another process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from threading import active_count

import pytest

from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.runner import metrics as module
from ascend_gdn.runner.metrics import GDNMetrics
from small_mounts import over_small_disk

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
        stats.table_kernels += 3
        stats.slot_waits += 4
        stats.host_ns += 50_000
    metrics.step_built()
metrics.end()
"""
SCRAPE = """
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


ON_A_FULL_DISK = """
import os, resource, sys
from pathlib import Path
from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.runner.metrics import GDNMetrics
if sys.argv[1:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    GDNMetrics(GDNStats(), 0, 0)
except OSError as error:
    print(error.strerror)
print([path.name for path in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db")])
"""
DISK_FILLS_UP = """
import os
from pathlib import Path
from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.runner.metrics import GDNMetrics
stats = GDNStats()
metrics = GDNMetrics(stats, 0, 0)
try:
    Path(os.environ["PROMETHEUS_MULTIPROC_DIR"], "fill").write_bytes(bytes(1 << 20))
except OSError as error:
    print(error.strerror)
stats.steps, stats.host_ns = 4, 1000
metrics.step_built()
metrics.end()
"""


def python(script: str, *arguments: str, folder, over=list) -> str:
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    command = over([sys.executable, "-P", "-c", script, *arguments])
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout


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
        ("table_kernels_total", 6),
        ("slot_waits_total", 8),
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


SLOW = 3600.0
"""Seconds: it publishes nothing by itself."""


@pytest.fixture
def make(monkeypatch, tmp_path):
    """Metrics that end with the test."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    made = []

    def make(stats: GDNStats, interval: float) -> GDNMetrics:
        made.append(GDNMetrics(stats, 0, 0, interval))
        return made[-1]

    yield make
    for metrics in made:
        metrics.end()


def value(metrics: GDNMetrics, name: str) -> float:
    return metrics._counters[name]._value.get()


def observed(metrics: GDNMetrics) -> float:
    samples = {sample.name: sample.value for sample in metrics._host_seconds._child_samples()}
    return samples["_count"]


def test_a_step_itself_publishes_nothing(make):
    stats = GDNStats()
    metrics = make(stats, SLOW)
    stats.steps, stats.host_ns = 1, 1000
    metrics.step_built()
    assert (value(metrics, "steps"), observed(metrics)) == (0, 0)
    metrics.end()
    assert (value(metrics, "steps"), observed(metrics)) == (1, 1)


def test_the_last_step_before_a_pause_is_seen_without_another_one(make):
    stats = GDNStats()
    metrics = make(stats, 0.01)
    stats.steps, stats.host_ns = 1, 1000
    metrics.step_built()
    deadline = time.monotonic() + 10
    while observed(metrics) == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (value(metrics, "steps"), observed(metrics)) == (1, 1)


def test_counts_that_were_reset_are_counted_from_there(make):
    stats = GDNStats()
    metrics = make(stats, 0.01)
    stats.steps, stats.host_ns = 5, 1000
    metrics.step_built()
    time.sleep(0.1)
    stats.reset()
    metrics.step_built()
    time.sleep(0.1)
    stats.steps, stats.host_ns = 2, 500
    metrics.step_built()
    metrics.end()
    assert (value(metrics, "steps"), observed(metrics)) == (7, 2)


def test_nothing_is_left_running(make):
    before = active_count()
    metrics = make(GDNStats(), SLOW)
    assert active_count() == before + 1
    metrics.end()
    assert active_count() == before


def test_a_file_that_cannot_grow_is_an_error_and_leaves_nothing(tmp_path):
    said = python(ON_A_FULL_DISK, "limited", folder=tmp_path)
    assert said.splitlines() == ["File too large", "[]"]


def test_a_full_disk_is_an_error_too_and_does_not_kill_the_process(tmp_path):
    said = python(
        ON_A_FULL_DISK,
        folder=tmp_path,
        over=lambda command: over_small_disk(tmp_path, command, full=True),
    )
    assert said.splitlines() == ["No space left on device", "[]"]


def test_a_disk_that_fills_up_later_takes_nothing_away(tmp_path):
    said = python(
        DISK_FILLS_UP + SCRAPE,
        folder=tmp_path,
        over=lambda command: over_small_disk(tmp_path, command, size="256k"),
    )
    assert said.startswith("No space left on device\n")
    assert 'ascend_gdn:steps_total{engine="0",worker="0"} 4.0' in said
    assert 'ascend_gdn:metadata_host_seconds_count{engine="0",worker="0"} 1.0' in said


def test_files_that_others_write_too_keep_their_counts(tmp_path):
    of_vllm = """
from prometheus_client import CollectorRegistry, Counter
others = [Counter(f"other_{i}", "h" * 200, registry=CollectorRegistry()) for i in range(%d)]
for each in others:
    each.inc(2)
"""
    python(of_vllm % 200 + ON_A_FULL_DISK + of_vllm.replace("other_", "more_") % 400
           + SCRAPE, folder=tmp_path)  # fmt: skip
    text = python(SCRAPE, folder=tmp_path)
    assert len(re.findall(r"^(?:other|more)_\d+_total 2.0$", text, re.M)) == 600
    assert 'ascend_gdn:steps_total{engine="0",worker="0"} 0.0' in text


def test_metrics_that_fail_end_with_one_warning_and_the_worker_goes_on(make, mocker):
    warning = mocker.patch.object(module.logger, "warning")
    stats = GDNStats()
    metrics = make(stats, 0.01)
    mocker.patch.object(metrics._counters["steps"], "inc", side_effect=OSError("no disk"))
    deadline = time.monotonic() + 10
    while not warning.called and time.monotonic() < deadline:
        stats.steps, stats.host_ns = stats.steps + 1, stats.host_ns + 1000
        metrics.step_built()
        time.sleep(0.005)
    for _ in range(3):
        metrics.step_built()
        stats.host_ns += 1000
    metrics.end()
    (told,) = [call.args[0] % call.args[1:] for call in warning.call_args_list]
    assert told.endswith("until the next start: OSError: no disk")
    assert not metrics._step_times
