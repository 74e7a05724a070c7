# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend's own worker and runner on the emulated NPU, against Hugging Face transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..engine.parity import assert_equals_transformers
from .runs import emulated_job, run_emulated

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("budget", [512, 64])
def test_chunked_prefill(budget: int, model: Path, prompts: list[list[int]], tmp_path: Path):
    engine = {"max_num_batched_tokens": budget, "max_num_seqs": 8}
    result = run_emulated(emulated_job(model, prompts, engine=engine), tmp_path)
    assert_equals_transformers(model, prompts, result)
