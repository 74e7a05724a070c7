# SPDX-License-Identifier: Apache-2.0
"""No host buffer of a step is rewritten by the next while its copy may be under way."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..engine.job import run_script
from .runs import CALLS_SCRIPT, emulated_job
from .test_workers import NO_PROMPT_LOGPROBS, assert_same_tokens, random_prompts

pytestmark = pytest.mark.engine


def test_copies_of_states_between_blocks(model: Path, tmp_path: Path):
    """Chunks of long prompts, that leave their states' block in every step."""
    prompts = random_prompts(1500, 1700, 900, 300)
    job = emulated_job(
        model,
        prompts,
        worker_cls="recording_worker.RecordingWorker",
        engine={
            "async_scheduling": True,
            "enable_prefix_caching": True,
            "mamba_cache_mode": "align",
            "max_num_batched_tokens": 1200,
        },
        sampling=NO_PROMPT_LOGPROBS,
        env={"EMULATED_NPU_WIDE": "1", "OMP_NUM_THREADS": "1"},
        max_tokens=8,
    )
    values, _ = run_script(CALLS_SCRIPT, job, tmp_path, "rewritten")
    assert_same_tokens(model, prompts, values["result"]["tokens"])
    assert values["after"]["rewritten"] == [[]]
