# SPDX-License-Identifier: Apache-2.0
"""A dummy batch waits as a step does; tests/emulation/test_pinned_copies.py has the engine."""

from __future__ import annotations

from contextlib import contextmanager

from ascend_gdn.runner.upstream.dummy_run_fence import DummyRunFenceMixin


class Upstream:
    """What there is of vLLM-Ascend's runner here."""

    def __init__(self) -> None:
        self.order = []

    @contextmanager
    def synchronize_input_prep(self):
        self.order.append("wait")
        yield
        self.order.append("record")

    def _dummy_run(self, *args, **kwargs):
        self.order.append(("run", args, kwargs))
        return "hidden states"


class Runner(DummyRunFenceMixin, Upstream):
    pass


def test_it_waits_before_and_records_after():
    runner = Runner()
    assert runner._dummy_run(8, uniform_decode=True) == "hidden states"
    assert runner.order == ["wait", ("run", (8,), {"uniform_decode": True}), "record"]
