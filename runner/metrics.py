# SPDX-License-Identifier: Apache-2.0
"""What ``GDNStats`` counts, in vLLM's own ``/metrics``.

The worker is another process than the API servers. These merge whatever processes with
``PROMETHEUS_MULTIPROC_DIR`` in their environment have written there (v1/metrics/prometheus.py,
0.23.0), which vLLM sets itself where there are several API servers, before it starts a worker.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from threading import Event, Thread

from prometheus_client import CollectorRegistry, Counter, Histogram
from vllm.logger import init_logger

from ascend_gdn.attention.stats import GDNStats

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_ROOM = 1 << 16
"""Bytes: more than our series take of a file."""
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


def _reserve(folder: Path) -> None:
    """Have the disk's room for all that is written later.

    prometheus_client maps files with holes (mmap_dict.py, 0.26.0): on a full disk the first write
    into one kills the process by SIGBUS. Raises ``OSError`` instead.
    """
    for kind in ("counter", "histogram"):
        path = folder / f"{kind}_{os.getpid()}.db"  # values.py, 0.26.0
        with path.open("ab") as file:
            size = os.fstat(file.fileno()).st_size  # not 0 where vLLM's own counts are in it
            try:
                os.posix_fallocate(file.fileno(), 0, size + _ROOM)
            except OSError:
                if size == 0:  # whoever reads the folder trips over an empty file
                    path.unlink()
                raise


class GDNMetrics:
    """Publishes what has been counted since the last time, from a thread of its own.

    A step would pay 10 us for it; and what the last step before a pause counted would be seen only
    with the first one after it.

    Args:
        stats: What is counted.
        worker: Of all ranks of the engine, for a label.
        engine: The index that vLLM's own series have for a label, likewise.
        interval: Seconds from one time to the next.

    Raises:
        OSError: The folder is not there, not for this process to write, or on a full disk.
    """

    def __init__(self, stats: GDNStats, worker: int, engine: int, interval: float = 1.0) -> None:
        _reserve(Path(os.environ[VARIABLE]))
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
        self._host_ns = stats.host_ns
        self._step_times: deque[int] = deque()
        """Nanoseconds; the runner's thread puts in, the other takes out."""
        self._failed = False
        self._ended = Event()
        self._thread = Thread(
            target=self._run, args=(interval,), name="ascend-gdn metrics", daemon=True
        )
        self._thread.start()

    def step_built(self) -> None:
        """Note the host time of the step's metadata: all that a step pays."""
        host_ns = self._stats.host_ns
        if host_ns > self._host_ns:
            self._step_times.append(host_ns - self._host_ns)
        self._host_ns = host_ns

    def end(self) -> None:
        """Publish what is left, and nothing from then on."""
        self._ended.set()
        self._thread.join()
        self._publish()

    def _run(self, interval: float) -> None:
        while not self._ended.wait(interval):
            self._publish()

    def _publish(self) -> None:
        if self._failed:
            return
        try:
            self._write()
        except Exception as error:  # whatever it is, the model is served on
            self._failed = True
            self._step_times = deque(maxlen=0)  # nobody takes them out any more
            logger.warning(
                "ascend-gdn: metrics are not published any more, until the next start: %s: %s",
                type(error).__name__,
                error,
            )

    def _write(self) -> None:
        counts, published = vars(self._stats), self._published
        for name, counter in self._counters.items():
            now = counts[name]
            if now > published[name]:
                counter.inc(now - published[name])
            published[name] = now
        while self._step_times:
            self._host_seconds.observe(self._step_times.popleft() / 1e9)
