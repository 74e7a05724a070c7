# SPDX-License-Identifier: Apache-2.0
"""A worker that notices host buffers rewritten before their last copy is sure to be over.

The emulated device is as late as it may be: a copy is over when the host has waited for an event
that was recorded after it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import torch

from emulated_npu.our_worker import OurWorker


@dataclass
class Copies:
    """The copies of this process, in the order in which they were given to the device."""

    count: int = 0
    pending: list[tuple[int, str, torch.Tensor, torch.Tensor]] = field(default_factory=list)
    """Number, place in the source, host tensor, and what it was."""
    rewritten: set[str] = field(default_factory=set)
    """Places whose copy may have taken what was written later."""

    def add(self, source: torch.Tensor) -> None:
        self.count += 1
        self.pending.append((self.count, calling_place(), source, source.clone()))

    def wait(self, covered: int) -> None:
        """The host has waited for the first ``covered`` of them."""
        self.check()
        self.pending = [copy for copy in self.pending if copy[0] > covered]

    def check(self) -> None:
        for _, place, source, before in self.pending:
            if not torch.equal(source, before):
                self.rewritten.add(place)


COPIES = Copies()
TENSOR_COPY = torch.Tensor.copy_


def calling_place() -> str:
    """The innermost function but for those that copy whatever they are given."""
    frame = sys._getframe(2)
    while frame.f_code.co_name in ("copy_", "copy_to_gpu", "copy_to_cpu"):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"


def copy_(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    if non_blocking:
        COPIES.add(source)
    return TENSOR_COPY(target, source, non_blocking)


torch.Tensor.copy_ = copy_


class Event:
    """Of the main stream, on which all copies are."""

    covered = 0

    def record(self, *_: object) -> None:
        self.covered = COPIES.count

    def synchronize(self) -> None:
        COPIES.wait(self.covered)


class RecordingWorker(OurWorker):
    def make_model_runner(self):
        runner = super().make_model_runner()
        assert runner.prepare_inputs_event is not None, "asynchronous scheduling is off"
        runner.prepare_inputs_event = Event()
        if runner.num_accepted_tokens_event is not None:
            runner.num_accepted_tokens_event = Event()
        return runner

    def rewritten(self) -> list[str]:
        return sorted(COPIES.rewritten)
