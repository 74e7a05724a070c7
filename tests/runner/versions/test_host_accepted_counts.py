# SPDX-License-Identifier: Apache-2.0
"""Asynchronous scheduling from vLLM 0.30.0 on: what is planned with is what requests kept."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ascend_gdn.runner.versions.host_accepted_counts import HostAcceptedCountsMixin


class VllmRunner:
    """vLLM's: the counts of the last step arrive late, and the host's are all 1."""

    def __init__(self, *, asynchronous: bool, mode: str, before: dict[str, int] | None) -> None:
        self.speculative_config = object()
        self.use_async_scheduling = asynchronous
        self.cache_config = SimpleNamespace(mamba_cache_mode=mode)
        self.input_batch = SimpleNamespace(
            num_reqs=3, num_accepted_tokens_cpu=np.full(5, 77), prev_req_id_to_index=before
        )
        self.num_accepted_tokens = SimpleNamespace(np=np.full(5, 77))
        self.prev_positions = SimpleNamespace(np=np.full(5, 77))
        self.num_accepted_tokens_event = SimpleNamespace(synchronize=self.arrive)

    def arrive(self) -> None:
        self.input_batch.num_accepted_tokens_cpu[:3] = [4, 2, 3]

    def _prepare_inputs(self, scheduler_output) -> str:
        self.prev_positions.np[:3] = [2, -1, 0]
        self.num_accepted_tokens.np[:] = 1
        return "prepared"


class Runner(HostAcceptedCountsMixin, VllmRunner):
    """With ours before it."""


@pytest.mark.parametrize(
    ("before", "expected"),
    [({"a": 0, "b": 1, "c": 2}, [3, 1, 4, 1, 1]), (None, [4, 2, 3, 1, 1])],
    ids=["by the rows of the last step", "by the rows of this one"],
)
def test_the_hosts_are_brought_to_this_steps_rows(before, expected):
    runner = Runner(asynchronous=True, mode="none", before=before)
    assert runner._prepare_inputs("step") == "prepared"
    assert runner.num_accepted_tokens.np.tolist() == expected
    assert runner.input_batch.num_accepted_tokens_cpu[:3].tolist() == expected[:3]


@pytest.mark.parametrize(("asynchronous", "mode"), [(False, "none"), (True, "align")])
def test_where_vllm_does_it_nothing_is_done(asynchronous, mode):
    runner = Runner(asynchronous=asynchronous, mode=mode, before={"a": 0})
    runner._prepare_inputs("step")
    assert runner.num_accepted_tokens.np.tolist() == [1] * 5


def test_without_drafts_nothing_is_waited_for(mocker):
    runner = Runner(asynchronous=True, mode="none", before={"a": 0})
    runner.speculative_config = runner.num_accepted_tokens_event = None
    assert runner._prepare_inputs("step") == "prepared"
