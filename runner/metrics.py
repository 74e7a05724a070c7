# SPDX-License-Identifier: Apache-2.0
"""What ``GDNStats`` counts, in vLLM's own ``/metrics``.

The worker is another process than the API servers. These merge whatever processes with
``PROMETHEUS_MULTIPROC_DIR`` in their environment have written there (v1/metrics/prometheus.py,
0.23.0), which vLLM sets itself where there are several API servers, before it starts a worker.
"""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Histogram

from ascend_gdn.attention.stats import GDNStats

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_COUNTERS = {
    "steps": "Metadata builds of the scheduler.",
    "prefill_steps": "Those with at least one prefill.",
    "plans_built": "Plans for the prefill kernels.",
    "plans_reused": "Further KV cache groups that took one.",
    "bytes_copied": "Bytes of tables copied to the device.",
    "table_kernels": "Launches of the kernel that makes chunk tables.",
    "slot_waits": "Times that a buffer's last copy was still under way.",
}
_BUCKETS = (2e-5, 4e-5, 6e-5, 8e-5, 1e-4, 1.5e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 1e-2)
"""Seconds."""


def is_asked_for() -> bool:
    """Whether API servers read what this process publishes."""
    return VARIABLE in os.environ


class GDNMetrics:
    """Publishes what has been counted since the last time.

    Args:
        stats: What is counted.
        worker: Of all ranks of the engine, for a label.
        engine: Of data parallelism, likewise.
    """

    def __init__(self, stats: GDNStats, worker: int, engine: int) -> None:
        registry = CollectorRegistry()  # what is read are the files
        labels = {"worker": str(worker), "engine": str(engine)}
        self._stats = stats
        self._published = vars(stats).copy()
        self._counters = {
            name: Counter(f"ascend_gdn:{name}", text, list(labels), registry=registry).labels(
                **labels
            )
            for name, text in _COUNTERS.items()
        }
        self._host_seconds = Histogram(
            "ascend_gdn:metadata_host_seconds",
            "Host time of the metadata of a prefill step.",
            list(labels),
            buckets=_BUCKETS,
            registry=registry,
        ).labels(**labels)

    def publish(self) -> None:
        """Once a step: a counter that has not moved costs a comparison."""
        counts, published = vars(self._stats), self._published
        for name, counter in self._counters.items():
            more = counts[name] - published[name]
            if more:
                counter.inc(more)
                published[name] += more
        more = counts["host_ns"] - published["host_ns"]
        if more:
            self._host_seconds.observe(more / 1e9)
            published["host_ns"] += more
