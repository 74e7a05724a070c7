# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from ascend_gdn.runner.cpu import StepCPUModelRunner


def test_the_warm_up_samples_without_drafts(mocker):
    seen = []
    mocker.patch.object(
        GPUModelRunner,
        "_dummy_sampler_run",
        lambda runner, hidden_states: seen.append(runner.speculative_config),
    )
    runner = object.__new__(StepCPUModelRunner)
    runner.speculative_config = "speculative"
    runner._dummy_sampler_run(torch.zeros(1))
    assert (seen, runner.speculative_config) == ([None], "speculative")


@pytest.mark.parametrize("certain", [None, {0: [5]}])
@pytest.mark.parametrize("all_greedy", [True, False])
def test_what_the_rejection_sampler_has_no_answer_for(all_greedy, certain):
    metadata = SimpleNamespace(all_greedy=all_greedy, logprob_token_ids=certain)
    runner = object.__new__(StepCPUModelRunner)
    assert runner.has_no_answer(metadata) is (not all_greedy or certain is not None)
