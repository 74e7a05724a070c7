# SPDX-License-Identifier: Apache-2.0
"""Verify mode on the emulated NPU: silent, with drafts of equal and of unequal numbers."""

from __future__ import annotations

import json
import random

import pytest

from .runs import OUR_WORKER, emulated_job, run_emulated

pytestmark = [pytest.mark.engine, pytest.mark.slow]

MTP = {"speculative_config": {"method": "qwen3_next_mtp", "num_speculative_tokens": 3}}


def test_the_same_answers(model, tmp_path):
    random.seed(1)
    prompts = [[random.randrange(3, 200) for _ in range(n)] for n in (1, 2, 64, 300, 7, 130)]
    # Budgets that cut drafts and prompts.
    engine = MTP | {"max_num_seqs": 4, "max_num_batched_tokens": 70}
    options = json.dumps({"verify": True, "verify_dumps": str(tmp_path)})
    plain, verified = (
        run_emulated(
            emulated_job(
                model, prompts, worker_cls=OUR_WORKER, engine=engine, max_tokens=12, env=env
            ),
            tmp_path / name,
        )
        for name, env in (("plain", {}), ("verified", {"ASCEND_GDN_OPTIONS": options}))
    )
    assert verified.tokens == plain.tokens
    assert verified.prompt_logprobs == plain.prompt_logprobs
    assert "ascend-gdn: verify mode" in verified.log
    assert list(tmp_path.glob("*.json")) == []
