# SPDX-License-Identifier: Apache-2.0
"""Prefix caching with MTP: what vLLM's scheduler breaks and ours does not."""

from __future__ import annotations

import numpy as np
import pytest
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from ascend_gdn.runner.align_scheduler import AlignedScheduler
from upstream_calls import OLDEST

from .. import simulation
from ..simulation import Simulation, Sizes, WrongState

SIZE = 16


@pytest.fixture(autouse=True)
def bases(mocker):
    mocker.patch.object(GPUModelRunner, "_update_states", simulation.update_states)
    mocker.patch.object(GPUModelRunner, "_prepare_inputs", return_value=(None, None))


def cut_short(scheduler_cls, num_spec: int = 3) -> Simulation:
    """Two prompts at once, the second's first chunk cut short within its first block."""
    sim = Simulation(
        Sizes(SIZE, num_spec, budget=SIZE + 10), np.random.default_rng(0), scheduler_cls
    )
    sim.add(list(range(100, 100 + SIZE)), [1, 2, 3])
    sim.add(list(range(200, 200 + SIZE + 9)), [1, 2, 3])
    sim.finish()
    return sim


def follow_up(scheduler_cls, num_spec: int = 3) -> Simulation:
    """A request that takes up another one's answer of several blocks."""
    sim = Simulation(
        Sizes(SIZE, num_spec, budget=4 * SIZE), np.random.default_rng(0), scheduler_cls
    )
    sim.add(list(range(100, 130)), list(range(200, 250)))
    sim.finish()
    sim.add(sim.texts["0"] + [7, 8, 9], [1, 2, 3])
    sim.finish()
    return sim


@pytest.mark.parametrize(
    ("requests", "wrong"), [(cut_short, "'cached'"), (follow_up, "'attention'")]
)
def test_vllms_has_the_fault_or_is_what_we_take(requests, wrong):
    if not OLDEST:
        assert AlignedScheduler is Scheduler
        return
    with pytest.raises(WrongState, match=wrong):
        requests(Scheduler)


def test_ours_ends_a_chunk_with_its_block():
    cut_short(AlignedScheduler)


def test_ours_takes_hits_that_all_groups_have():
    assert follow_up(AlignedScheduler).hits == 1


@pytest.mark.parametrize("requests", [cut_short, follow_up])
def test_without_mtp_it_is_vllms(requests, mocker):
    steps = []
    for scheduler_cls in (Scheduler, AlignedScheduler):
        schedule = mocker.spy(scheduler_cls, "schedule")
        requests(scheduler_cls, num_spec=0)
        steps.append([out.num_scheduled_tokens for out in schedule.spy_return_list])
        mocker.stop(schedule)
    assert steps[0] == steps[1] != []
