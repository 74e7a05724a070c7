# SPDX-License-Identifier: Apache-2.0
"""What the worker did, counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class GDNStats:
    """Counts since the worker started; written by the runner's step and pool, read by operators."""

    steps: int = 0
    """Metadata builds of the scheduler, each for all KV cache groups. Here and in the next four
    dummy batches and made-up requests are not counted: warm-up, capture, idle data-parallel
    ranks."""
    prefill_steps: int = 0
    """Steps with at least one prefill."""
    plans_built: int = 0
    """Plans for the prefill kernels: filled, copied to the device. Of steps with prefills, and on
    Ascend of those that verify drafts of unequal lengths."""
    plans_reused: int = 0
    """Builds of further KV cache groups that took an existing plan."""
    host_ns: int = 0
    """Host time of prefill steps, nanoseconds: of the first build, which makes what all get."""
    bytes_copied: int = 0
    """Bytes of tables copied from host to device; 0 on CPU, where both are one buffer."""
    table_kernels: int = 0
    """Launches of the kernel that makes the chunk tables on the device."""
    slot_waits: int = 0
    """Times that a slot's last copy was still under way when the slot was taken."""
    pool_bytes: int = 0
    """Host bytes of the buffer pool, and as many on the device (none on CPU)."""

    def reset(self) -> None:
        """Count from here on; the pools stay."""
        self.steps = self.prefill_steps = self.plans_built = self.plans_reused = 0
        self.host_ns = self.bytes_copied = self.table_kernels = self.slot_waits = 0

    def as_dict(self) -> dict[str, float]:
        """Plain numbers for ``collective_rpc``; host time in microseconds as ``host_us``."""
        counts: dict[str, float] = asdict(self)
        counts["host_us"] = counts.pop("host_ns") / 1e3
        return counts
