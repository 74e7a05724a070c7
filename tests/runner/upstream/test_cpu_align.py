# SPDX-License-Identifier: Apache-2.0
"""The copies of GDN states between blocks, alone and under vLLM's scheduler."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm.model_executor.layers.mamba.mamba_utils import get_temporal_copy_spec
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from ascend_gdn.runner.align_scheduler import AlignedScheduler
from ascend_gdn.runner.cpu import StepCPUModelRunner
from ascend_gdn.runner.upstream import gdn_states
from ascend_gdn.runner.upstream.cpu_align import (
    AlignedStates,
    StateCopy,
    copy_after_step,
    copy_before_step,
)

from .. import simulation
from ..simulation import COPY_FUNCS, Simulation, Sizes


@pytest.fixture
def bases(mocker):
    """The methods of vLLM's runner that ours builds on, as the simulation has them."""
    mocker.patch.object(GPUModelRunner, "_update_states", simulation.update_states)
    mocker.patch.object(GPUModelRunner, "_prepare_inputs", return_value=(None, None))


@pytest.mark.parametrize(
    ("running", "computed", "scheduled", "accepted", "expected"),
    [
        pytest.param(None, 0, 10, 1, None, id="a new request has no state"),
        pytest.param(None, 8, 3, 1, StateCopy(1, 2), id="from the cached block"),
        pytest.param(None, 8, 12, 1, StateCopy(1, 4), id="over several blocks"),
        pytest.param(0, 2, 2, 1, None, id="fills its block"),
        pytest.param(0, 2, 3, 1, StateCopy(0, 1), id="a token into the next block"),
        pytest.param(0, 3, 3, 3, StateCopy(0, 1, 2), id="the third of the saved states"),
        pytest.param(1, 5, 3, 2, None, id="stays; the kernels take the second state themselves"),
        pytest.param(1, 4, 1, 1, None, id="moved ahead with drafts, none kept"),
    ],
)
def test_copy_before_step(running, computed, scheduled, accepted, expected):
    assert copy_before_step(running, computed, scheduled, accepted, block_size=4) == expected


def saved_at_the_end_of_a_block(computed, scheduled, drafts, accepted, block_size):
    """The last of the kept states that is one after a full block: (tokens, which state)."""
    last = None
    for state in range(accepted):
        tokens = computed + scheduled - drafts + state
        if tokens % block_size == 0:
            last = tokens, state
    return last


@pytest.mark.parametrize("block_size", [2, 3, 4, 8])
def test_copy_after_step(block_size):
    found = 0
    for computed in range(20):
        for scheduled in range(1, 7):
            for drafts in range(min(scheduled, block_size)):
                for accepted in range(1, drafts + 2):
                    step = (computed, scheduled, drafts, accepted, block_size)
                    running = (computed + scheduled - 1) // block_size
                    copy = copy_after_step(running, *step)
                    saved = saved_at_the_end_of_a_block(*step)
                    if saved is None:
                        assert copy is None
                    else:
                        tokens, state = saved
                        assert copy == StateCopy(running, tokens // block_size - 1, state)
                        found += 1
    assert found > 100


def random_states(rng: np.random.Generator, dim_first: bool):
    """Two groups of layers on 12 blocks each; windows of 3 + 2 tokens, 4 wide."""
    shape = (12, 4, 5) if dim_first else (12, 5, 4)
    return {
        name: SimpleNamespace(
            kv_cache=(
                torch.from_numpy(rng.random(shape)).float(),
                torch.from_numpy(rng.random((12, 2, 3, 3))),
            )
        )
        for name in simulation.GROUPS
    }


@pytest.mark.parametrize("dim_first", [False, True])
@pytest.mark.parametrize("copy", [StateCopy(1, 2), StateCopy(1, 0, 2), StateCopy(1, 1, 1)])
def test_states_are_copied_and_nothing_else_changes(dim_first, copy, mocker):
    mocker.patch.object(gdn_states, "is_conv_state_dim_first", return_value=dim_first)
    layers = random_states(np.random.default_rng(0), dim_first)
    blocks = ([5, 3, 8, 1], [0, 0, 0, 0], [2, 9, 4, 11])
    expected = {}
    for name, layer in layers.items():
        windows, recurrent = (state.clone() for state in layer.kv_cache)
        own = blocks[simulation.GROUPS[name]]
        for place in range(5 - copy.later):
            at, place_from = own[copy.target], place + copy.later
            if dim_first:
                windows[at, :, place] = layer.kv_cache[0][own[copy.source], :, place_from]
            else:
                windows[at, place] = layer.kv_cache[0][own[copy.source], place_from]
        recurrent[own[copy.target]] = layer.kv_cache[1][own[copy.source + copy.later]]
        expected[name] = windows, recurrent
    config = simulation.kv_cache_config(Sizes(block_size=4, num_spec=2))
    AlignedStates(config, layers, COPY_FUNCS).copy(blocks, copy)
    for name, layer in layers.items():
        for state, wanted in zip(layer.kv_cache, expected[name], strict=True):
            assert torch.equal(state, wanted)


def test_a_block_outside_the_request_is_an_error_not_another_requests_state():
    layers = random_states(np.random.default_rng(0), dim_first=False)
    config = simulation.kv_cache_config(Sizes(block_size=4, num_spec=2))
    states = AlignedStates(config, layers, COPY_FUNCS)
    with pytest.raises(IndexError):
        states.copy(([5, 3], [0, 0], [2, 9]), StateCopy(1, 2))


def test_refuses_states_that_it_does_not_know():
    layers = random_states(np.random.default_rng(0), dim_first=False)
    config = simulation.kv_cache_config(Sizes(block_size=4, num_spec=2))
    with pytest.raises(ValueError, match="another kind of state"):
        AlignedStates(config, layers, (get_temporal_copy_spec,))


def test_refuses_as_many_drafts_as_a_block_has_tokens():
    layers = random_states(np.random.default_rng(0), dim_first=False)
    config = simulation.kv_cache_config(Sizes(block_size=4, num_spec=4))
    with pytest.raises(ValueError, match="got 4 speculative tokens and state blocks of 4"):
        AlignedStates(config, layers, COPY_FUNCS)


def chat(sim: Simulation, rng: np.random.Generator, requests: int) -> None:
    """Requests that begin alike or take up another one's answer, arriving at random."""
    size, longest = sim.sizes.block_size, sim.sizes.max_len

    def tokens(count: int) -> list[int]:
        return rng.integers(100, 10**6, count).tolist()

    trunk = tokens(longest)
    while len(sim.texts) < requests:
        if rng.random() < 0.4:
            if sim.texts and rng.random() < 0.5:
                prompt = sim.texts[rng.choice(list(sim.texts))] + tokens(rng.integers(1, 2 * size))
            else:
                prompt = trunk[: rng.integers(5 * size)] + tokens(rng.integers(1, 2 * size))
            answer = tokens(rng.integers(1, 4 * size))
            if len(prompt + answer) < longest:
                sim.add(prompt, answer)
        if sim.scheduler.requests:
            sim.step()
    sim.finish()


@pytest.mark.parametrize("num_spec", [0, 1, 3, 4])
@pytest.mark.parametrize("block_size", [5, 16])
def test_every_state_is_the_right_one_under_vllms_scheduler(num_spec, block_size, bases):
    counts = np.zeros(4, dtype=int)
    for seed in range(3):
        rng = np.random.default_rng([seed, num_spec, block_size])
        sizes = Sizes(
            block_size=block_size,
            num_spec=num_spec,
            max_seqs=int(rng.integers(2, 7)),
            budget=int(rng.integers(block_size + 6, 4 * block_size)),
            num_blocks=int(rng.integers(6 * (12 + num_spec), 200)),
            max_len=12 * block_size,
        )
        sim = Simulation(sizes, rng, AlignedScheduler)
        chat(sim, rng, requests=15)
        counts += (sim.hits, sim.copies, sim.copies_within, sim.accepted)
    hits, copies, within, accepted = counts
    assert hits > 10 and copies > 100
    assert (within > 10) == (accepted > 100) == (num_spec > 0)


def test_requests_start_anew_when_the_prefix_cache_is_reset(bases):
    rng = np.random.default_rng(0)
    sim = Simulation(Sizes(block_size=8, num_spec=3, budget=20), rng, AlignedScheduler)
    for _ in range(3):
        prompt = rng.integers(100, 10**6, 40).tolist()
        sim.add(prompt, rng.integers(100, 10**6, 60).tolist())
    for _ in range(16):
        sim.step()
    assert max(sim.runner.mamba_state_idx.values()) > 5
    assert sim.scheduler.reset_prefix_cache(reset_running_requests=True)
    sim.finish()


def test_a_request_left_out_of_a_step_keeps_its_place(bases):
    left_out = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        # Nine requests with up to four tokens each do not fit into a step.
        sim = Simulation(Sizes(4, num_spec=3, max_seqs=9, budget=20), rng, AlignedScheduler)
        for _ in range(30):
            prompt = rng.integers(100, 10**6, rng.integers(1, 48)).tolist()
            sim.add(prompt, rng.integers(100, 10**6, rng.integers(20, 60)).tolist())
            sim.step()
        sim.finish()
        left_out += sim.left_out
    assert left_out > 10


def test_vllm_copies_nothing_itself(bases, mocker):
    memcpy = mocker.patch("vllm.v1.worker.mamba_utils.batch_memcpy")
    rng = np.random.default_rng(0)
    sim = Simulation(Sizes(block_size=4, num_spec=0), rng, AlignedScheduler)
    sim.add(list(range(100, 121)), list(range(200, 220)))
    sim.finish()
    assert sim.copies > 3
    memcpy.assert_not_called()


def test_without_align_mode_nothing_is_copied(bases, mocker):
    after = mocker.patch.object(GPUModelRunner, "_update_states_after_model_execute")
    runner = object.__new__(StepCPUModelRunner)
    runner.speculative_config, runner.use_async_scheduling = None, False
    scheduler_output = SimpleNamespace(scheduled_spec_decode_tokens={})
    assert runner._prepare_inputs(scheduler_output) == (None, None)
    runner._update_states_after_model_execute(torch.tensor([[7]]), scheduler_output)
    after.assert_called_once()
