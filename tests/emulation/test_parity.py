# SPDX-License-Identifier: Apache-2.0
"""Our NPU worker on the emulated NPU, beside vllm-ascend's own and Hugging Face transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..engine.parity import assert_equals_transformers
from .runs import OUR_WORKER, emulated_job, run_emulated

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("budget", [512, 64])
def test_chunked_prefill(budget: int, model: Path, prompts: list[list[int]], tmp_path: Path):
    engine = {"max_num_batched_tokens": budget, "max_num_seqs": 8}
    job = emulated_job(model, prompts, worker_cls=OUR_WORKER, engine=engine)
    result = run_emulated(job, tmp_path)
    assert_equals_transformers(model, prompts, result)
    stats = result.stats
    assert 0 < stats["plans_built"] == stats["prefill_steps"] < stats["steps"]
    assert stats["plans_reused"] == 2 * stats["plans_built"]  # three groups
