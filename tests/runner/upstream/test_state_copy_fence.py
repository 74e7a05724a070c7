# SPDX-License-Identifier: Apache-2.0
"""The order of copies, event and forward; tests/emulation/test_pinned_copies.py has the engine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ascend_gdn.runner.upstream.state_copy_fence import StateCopyFenceMixin


class Upstream:
    """What there is of vLLM-Ascend's runner here."""

    def __init__(self, copies: int | None, is_async: bool) -> None:
        self.order = []
        event = SimpleNamespace(record=lambda: self.order.append("record"))
        self.prepare_inputs_event = event if is_async else None
        preprocess = SimpleNamespace(offset=copies)
        self._mamba_bufs = None if copies is None else SimpleNamespace(preprocess=preprocess)

    def _model_forward(self, *args, **kwargs):
        self.order.append(("forward", args, kwargs))
        return "hidden states"


class Runner(StateCopyFenceMixin, Upstream):
    pass


@pytest.mark.parametrize(
    ("copies", "is_async", "records"),
    [(3, True, 1), (0, True, 0), (None, True, 0), (3, False, 0)],
)
def test_the_event_is_recorded_anew_behind_copies(copies, is_async, records):
    runner = Runner(copies, is_async)
    assert runner._model_forward(4, input_ids=None) == "hidden states"
    assert runner.order == ["record"] * records + [("forward", (4,), {"input_ids": None})]
