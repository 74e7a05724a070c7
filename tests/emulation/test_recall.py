# SPDX-License-Identifier: Apache-2.0
"""The trained model answers rightly on both workers, in bfloat16, with MTP and without.

In bfloat16 not even the types are changed: all that is not upstream's is under its operators.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen3NextForCausalLM

import recall_task
from recall_eval import right_answers
from recall_task import LONGEST_ANSWER, held_out

from .runs import emulated_job, run_emulated
from .wider_heads import write_with_wider_heads

pytestmark = pytest.mark.engine

CASES = held_out(6, (8, 64, 250, 1000))
MTP = {"speculative_config": {"method": "qwen3_next_mtp", "num_speculative_tokens": 3}}


@pytest.mark.parametrize("speculative", [False, True], ids=["", "MTP"])
def test_answers_are_right(speculative: bool, worker_cls: str, tmp_path: Path):
    source = Path(recall_task.__file__).parent / "recall_model"
    model = write_with_wider_heads(source, tmp_path / "model")
    reference = Qwen3NextForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    assert right_answers(reference, CASES) == 1

    job = emulated_job(
        model,
        [case.prompt for case in CASES],
        worker_cls=worker_cls,
        dtype="bfloat16",
        max_tokens=LONGEST_ANSWER,
        engine={"max_num_batched_tokens": 512, "max_num_seqs": 16, "disable_log_stats": False}
        | (MTP if speculative else {}),
        sampling={"ignore_eos": False, "prompt_logprobs": None},
    )
    result = run_emulated(job, tmp_path)
    right = sum(t == case.answer for t, case in zip(result.tokens, CASES, strict=True))
    print(f"{right} of {len(CASES)} right")
    assert right == len(CASES)
    if speculative:
        accepted = result.counters["vllm:spec_decode_num_accepted_tokens"]
        rate = accepted / result.counters["vllm:spec_decode_num_draft_tokens"]
        print(f"{rate:.0%} of the drafts accepted")
        assert rate > 0.3
