# SPDX-License-Identifier: Apache-2.0
"""Asynchronous scheduling: each request's accepted count, whatever rows come, go and are swapped.

vLLM's own batch and ``_update_states`` under our layer; the counts of a step arrive when something
waits for them, or before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput
from vllm.v1.worker import gpu_model_runner
from vllm.v1.worker.gpu_input_batch import InputBatch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from ascend_gdn.runner.model_runner import StepModelRunnerMixin
from upstream_calls import known

NUM_SPEC, MAX_SEQS, PROMPT = 3, 6, 8
DRAFTS = [-1] * NUM_SPEC


class VllmRunner:
    """vLLM's runner (0.23.0) as far as its batch goes."""

    use_async_scheduling = use_async_spec_decode = True
    is_pooling_model = uses_mrope = enable_prompt_embeds = False
    uses_xdrope_dim = 0
    num_spec_tokens = NUM_SPEC
    reorder_batch_threshold = 1 + NUM_SPEC
    speculative_config = SimpleNamespace(use_ngram_gpu=lambda: False)
    _update_states = GPUModelRunner._update_states
    _may_reorder_batch = GPUModelRunner._may_reorder_batch
    _compute_prev_positions = GPUModelRunner._compute_prev_positions

    def __init__(self) -> None:
        self.requests, self.num_prompt_logprobs, self.encoder_cache = {}, {}, {}
        self.late_interaction_runner = SimpleNamespace(
            on_requests_finished=lambda *_: None, register_request=lambda *_: None
        )
        self._process_encoder_cache_scheduler_output = lambda _: None  # 0.30.0
        self._on_request_state_removed = lambda *_: None
        self.kv_cache_config = SimpleNamespace(kv_cache_groups=["gdn"])
        self.input_batch = known(
            InputBatch,
            max_num_reqs=MAX_SEQS,
            max_model_len=4096,
            max_num_batched_tokens=64,
            device=torch.device("cpu"),
            pin_memory=False,
            vocab_size=1000,
            block_sizes=[16],
            kernel_block_sizes=[16],
            max_num_blocks_per_req=[4096 // 16],
            num_spec_tokens=NUM_SPEC,
        )
        self.num_accepted_tokens = SimpleNamespace(
            np=np.full(MAX_SEQS, 77), copy_to_gpu=lambda: None
        )
        self.prev_num_draft_tokens = SimpleNamespace(np=np.zeros(MAX_SEQS, np.int32))
        self.prev_positions = SimpleNamespace(np=np.zeros(MAX_SEQS, np.int64))
        self.num_accepted_tokens_event = SimpleNamespace(synchronize=self.arrive)
        self.arriving: list[int] | None = None

    def arrive(self) -> None:
        if self.arriving is not None:
            self.input_batch.num_accepted_tokens_cpu[: len(self.arriving)] = self.arriving
            self.arriving = None

    def _prepare_inputs(self, scheduler_output: SchedulerOutput) -> None:
        """Counts by the rows of the last step, which requests that are new here have none of."""
        batch = self.input_batch
        self._compute_prev_positions(batch.num_reqs)
        self.arrive()
        if not batch.prev_req_id_to_index:
            self.num_accepted_tokens.np[:] = batch.num_accepted_tokens_cpu
            return
        counts = batch.num_accepted_tokens_cpu.copy()
        for row, before in enumerate(self.prev_positions.np[: batch.num_reqs]):
            count = 1 if before < 0 else counts[before]
            self.num_accepted_tokens.np[row] = batch.num_accepted_tokens_cpu[row] = count


class Runner(StepModelRunnerMixin, VllmRunner):
    def __init__(self) -> None:
        self.left_out, self.returned, self.num_drafting, self.gdn_steps = {}, {}, 0, None
        VllmRunner.__init__(self)

    def end_step(self, kept: Sequence[int], partial: Collection[str] = ()) -> None:
        """A row each: ``kept``. Who has only a part of its prompt yet has no token of the step."""
        self.arriving = list(kept)
        rows = self.input_batch.req_id_to_index.items()
        self.input_batch.prev_req_id_to_index = {
            req_id: row for req_id, row in rows if req_id not in partial
        }

    def step(self, output: SchedulerOutput) -> dict[str, int]:
        """Run a step; what each of its requests kept before it, as the step's plan is told."""
        self._update_states(output)
        self._prepare_inputs(output)
        batch = self.input_batch
        return dict(zip(batch.req_ids, self.num_accepted_tokens.np.tolist(), strict=False))


def scheduled(
    new, decoding, prefilling=(), finished=(), resumed=(), few=(), prompt=100 * PROMPT
) -> SchedulerOutput:
    """``decoding`` verify drafts; ``prefilling`` take another chunk of 8, ``few`` of 4."""
    cached = [*decoding, *prefilling, *few]
    tokens = dict.fromkeys([*new, *prefilling], PROMPT)
    tokens |= dict.fromkeys([*decoding, *few], 1 + NUM_SPEC)
    return SchedulerOutput(
        scheduled_new_reqs=[
            NewRequestData(
                req_id=req_id,
                prompt_token_ids=[5] * prompt,
                mm_features=[],
                sampling_params=SamplingParams(),
                pooling_params=None,
                block_ids=([1],),
                num_computed_tokens=0,
                lora_request=None,
            )
            for req_id in new
        ],
        scheduled_cached_reqs=CachedRequestData(
            req_ids=cached,
            resumed_req_ids=set(resumed),
            new_token_ids=[],
            all_token_ids={},
            new_block_ids=[([2],) if req_id in resumed else None for req_id in cached],
            num_computed_tokens=[PROMPT] * len(cached),
            num_output_tokens=[0] * len(cached),
        ),
        num_scheduled_tokens=tokens,
        total_num_scheduled_tokens=sum(tokens.values()),
        scheduled_spec_decode_tokens=dict.fromkeys(decoding, DRAFTS),
        scheduled_encoder_inputs={},
        num_common_prefix_blocks=[0],
        finished_req_ids=set(finished),
        free_encoder_mm_hashes=[],
    )


@pytest.fixture
def runner(monkeypatch) -> Runner:
    monkeypatch.setattr(
        gpu_model_runner, "get_pp_group", lambda: SimpleNamespace(is_last_rank=True)
    )
    return Runner()


def test_a_prompt_takes_the_row_of_a_finished_request_and_is_swapped_behind_the_decodes(runner):
    runner.step(scheduled("abcd", ""))
    runner.end_step([1, 1, 1, 1])
    runner.step(scheduled("", "abcd"))
    runner.end_step([1, 2, 3, 4])
    before = runner.step(scheduled("e", "bcd", finished="a"))
    assert before == {"b": 2, "c": 3, "d": 4, "e": 1}
    assert list(before) != sorted(before)  # d has e's row, which was a's


@pytest.mark.parametrize("outcome", ["resumed", "another"])
def test_a_request_that_is_put_in_the_batch_anew_kept_one(runner, outcome):
    # Preempted by a reset of the prefix cache; or aborted, and another one has its name.
    runner.step(scheduled("a", ""))
    runner.end_step([1])
    runner.step(scheduled("", "a"))
    runner.end_step([4])  # arrives when the batch is changed already
    if outcome == "resumed":
        assert runner.step(scheduled("", "", "a", resumed="a")) == {"a": 1}
    else:
        assert runner.step(scheduled("a", "", finished="a")) == {"a": 1}


@pytest.mark.parametrize("early", [False, True], ids=["arrive when waited for", "arrive at once"])
def test_an_answer_that_is_computed_again_falls_behind_the_decodes(runner, early):
    # While it is given few tokens it passes for a decode, so that it may come before one.
    runner.step(scheduled("ab", "", prompt=PROMPT))
    runner.end_step([1, 1])
    runner.step(scheduled("", "b", few="a"))
    runner.end_step([1, 3], partial="a")
    if early:
        runner.arrive()
    assert list(runner.step(scheduled("", "b", "a")).items()) == [("b", 3), ("a", 1)]


@pytest.mark.parametrize("early", [False, True], ids=["arrive when waited for", "arrive at once"])
def test_requests_come_go_sit_out_and_are_swapped(runner, early):
    rng = np.random.default_rng(0)
    kept: dict[str, int] = {}
    prefilling: set[str] = set()
    swapped = returned = 0
    for step in range(600):
        finished = [each for each in kept if rng.random() < 0.1]
        for each in finished:
            del kept[each]
            prefilling.discard(each)
        room = MAX_SEQS - len(kept)
        new = [f"{step}.{i}" for i in range(room) if rng.random() < 0.3]
        going = [each for each in kept if rng.random() < 0.8]
        chunks = [each for each in going if each in prefilling]
        decoding = [each for each in going if each not in prefilling]
        output = scheduled(new, decoding, chunks, finished)
        if not output.num_scheduled_tokens:
            runner._update_states(output)
            continue
        before = runner.step(output)
        assert runner.num_drafting == len(decoding)
        batch = runner.input_batch
        for each in runner.returned.keys() & decoding:
            row = batch.req_id_to_index[each]
            start = batch.num_tokens_no_spec[row]
            assert (batch.token_ids_cpu[row, start : start + NUM_SPEC] >= 0).all()
            returned += 1
        assert before == {each: kept.get(each, 1) for each in [*new, *going]}
        rows = list(before)
        swapped += rows != sorted(rows, key=[*kept, *new].index)
        prefilling -= set(chunks)
        prefilling.update(each for each in [*new, *chunks] if rng.random() < 0.5)
        kept.update(dict.fromkeys([*new, *chunks], 1))
        kept.update((each, int(rng.integers(1, NUM_SPEC + 2))) for each in decoding)
        runner.end_step([kept[each] for each in rows], prefilling)
        if early:
            runner.arrive()
    assert swapped > 100
    assert returned > 100
