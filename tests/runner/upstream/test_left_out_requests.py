# SPDX-License-Identifier: Apache-2.0
"""The runner's layer over a stub of vLLM's, whose batch forgets requests that sit a step out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

from ascend_gdn.runner.model_runner import StepModelRunnerMixin
from ascend_gdn.runner.upstream.left_out_requests import replace_draft_placeholders
from upstream_calls import known

from .. import simulation

POISON = 77
MAX_SEQS = 4


class StubRunner:
    """vLLM's batch (0.23.0) as far as counts go; its device holds what was last copied to it."""

    def __init__(self, use_async_scheduling: bool) -> None:
        self.use_async_scheduling = use_async_scheduling
        self.speculative_config = "speculative"
        self.requests, self.input_batch = {}, simulation.Batch(MAX_SEQS)
        self.input_batch.spec_token_ids = [[] for _ in range(MAX_SEQS)]
        self.input_batch.num_tokens_no_spec = np.zeros(MAX_SEQS, dtype=np.int32)
        self.input_batch.token_ids_cpu = np.full((MAX_SEQS, 8), POISON)
        self.num_accepted_tokens_event = SimpleNamespace(synchronize=self.arrive)
        self.num_accepted_tokens = SimpleNamespace(
            np=np.full(MAX_SEQS, POISON), copy_to_gpu=self.copy_to_gpu
        )
        self.on_device = np.full(MAX_SEQS, POISON)
        self.last_rows: dict[str, int] = {}
        self.arriving: list[int] | None = None
        self.waits = 0

    def arrive(self) -> None:
        self.waits += 1
        if self.arriving is not None:
            self.input_batch.num_accepted_tokens_cpu[: len(self.arriving)] = self.arriving
            self.arriving = None

    def copy_to_gpu(self) -> None:
        self.on_device[:] = self.num_accepted_tokens.np

    def _update_states(self, scheduler_output) -> str:
        batch, staying = self.input_batch, scheduler_output.num_scheduled_tokens
        self.last_rows = {
            req_id: row for row, req_id in enumerate(batch.req_ids) if req_id in staying
        }
        batch.prev_req_id_to_index = self.last_rows
        simulation.update_states(self, scheduler_output)
        return "corrections"

    def _prepare_inputs(self, scheduler_output) -> str:
        batch, counts = self.input_batch, self.num_accepted_tokens.np
        self.num_accepted_tokens_event.synchronize()
        kept = batch.num_accepted_tokens_cpu.copy()
        for row, req_id in enumerate(batch.req_ids):
            if self.use_async_scheduling and self.last_rows:
                known = req_id in self.last_rows
                counts[row] = kept[self.last_rows[req_id]] if known else 1
                batch.num_accepted_tokens_cpu[row] = counts[row]
            else:
                counts[row] = kept[row]
        self.copy_to_gpu()
        return "inputs"


class Runner(StepModelRunnerMixin, StubRunner):
    def step(self, scheduler_output, accepted: list[int]) -> dict[str, int]:
        """A step that keeps ``accepted``; what each of its requests kept before it."""
        assert self._update_states(scheduler_output) == "corrections"
        assert self._prepare_inputs(scheduler_output) == "inputs"
        rows = self.input_batch.req_ids
        before = dict(zip(rows, self.on_device.tolist(), strict=False))
        host = self.input_batch.num_accepted_tokens_cpu[: len(rows)]
        assert host.tolist() == list(before.values())  # for preprocess_mamba
        host[:] = POISON  # until the step's counts arrive
        self.arriving = accepted
        if not self.use_async_scheduling:
            self.arrive()
        return before


def scheduled(*req_ids: str, finished=(), preempted=None, resumed=()) -> SimpleNamespace:
    return SimpleNamespace(
        num_scheduled_tokens=dict.fromkeys(req_ids, 1),
        finished_req_ids=set(finished),
        preempted_req_ids=preempted,
        scheduled_new_reqs=[],
        scheduled_spec_decode_tokens={},
        scheduled_cached_reqs=SimpleNamespace(req_ids=[], resumed_req_ids=set(resumed)),
    )


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def runner(request) -> Runner:
    return Runner(request.param)


def test_what_a_request_kept_is_known_when_it_comes_back(runner):
    assert runner.step(scheduled("a", "b", "c", "d"), [2, 3, 4, 3]) == dict.fromkeys("abcd", 1)
    assert runner.step(scheduled("a", "d", preempted={"c"}), [4, 2]) == {"a": 2, "d": 3}
    assert runner.step(scheduled("a"), [3]) == {"a": 4}
    # d has been preempted in between, which only shows when it is resumed.
    back = scheduled("a", "d", "c", "b", resumed=["d", "c"])
    assert runner.step(back, [1, 2, 3, 4]) == {"a": 3, "d": 1, "c": 1, "b": 3}
    # Once back, a request's counts are vLLM's again.
    before = runner.step(scheduled("a", "d", "c", "b"), [1, 1, 1, 1])
    assert before == {"a": 1, "d": 2, "c": 3, "b": 4}


def test_a_finished_request_is_forgotten(runner):
    runner.step(scheduled("a", "b"), [3, 4])
    runner.step(scheduled("a"), [2])
    runner.step(scheduled(finished=["a", "b"]), [])
    assert runner.step(scheduled("a", "b"), [1, 1]) == {"a": 1, "b": 1}  # others of these names
    assert not runner.left_out


def test_all_sit_out(runner):
    runner.step(scheduled("a", "b"), [3, 4])
    runner._update_states(scheduled())  # vLLM prepares no inputs of a step without tokens
    assert runner.step(scheduled("b", "a"), [1, 1]) == {"b": 4, "a": 3}


def test_does_not_wait_for_the_last_step_while_all_go_on(runner):
    for _ in range(3):
        runner.step(scheduled("a", "b"), [1, 2])
    waits = runner.waits
    runner._update_states(scheduled("a", "b"))
    assert runner.waits == waits
    runner._update_states(scheduled("a"))
    assert runner.waits == waits + 1


def test_without_drafts_all_is_vllms(runner):
    runner.speculative_config = None
    runner.step(scheduled("a", "b"), [3, 4])
    runner.step(scheduled("a"), [3])
    assert runner.step(scheduled("a", "b"), [1, 1]) == {"a": 3, "b": 1}


def test_drafts_that_nobody_made_become_tokens():
    batch = known(
        InputBatch,
        max_num_reqs=MAX_SEQS,
        max_model_len=16,
        max_num_batched_tokens=16,
        device=torch.device("cpu"),
        pin_memory=False,
        vocab_size=1000,
        block_sizes=[16],
        kernel_block_sizes=[16],
        max_num_blocks_per_req=[1],
        num_spec_tokens=3,
    )
    drafts = {"was there": [-1] * 3, "came back": [-1] * 2, "has its own": [7, -1]}
    for req_id in drafts:
        request = CachedRequestState(
            req_id, [5, 6, 7, 8], [], SamplingParams(), None, ([1],), 4, output_token_ids=[9]
        )
        batch.add_request(request)
        batch.update_req_spec_token_ids(request, drafts)
    replace_draft_placeholders(batch, ["came back", "has its own"])
    texts = {req_id: batch.token_ids_cpu[row] for req_id, row in batch.req_id_to_index.items()}
    assert texts["was there"][:8].tolist() == [5, 6, 7, 8, 9, -1, -1, -1]  # the runner's to fill
    assert texts["came back"][:7].tolist() == [5, 6, 7, 8, 9, 0, 0]
    assert texts["has its own"][:7].tolist() == [5, 6, 7, 8, 9, 7, 0]
