# SPDX-License-Identifier: Apache-2.0
"""Ranges of ours in a profile, where vLLM's are asked for as well, and none else."""

from __future__ import annotations

from pathlib import Path

import pytest

from .job import Job, run_script

pytestmark = pytest.mark.engine

JOB = Path(__file__).with_name("profile_job.py")
LAYERS = 3
"""Of GDN in a model of four."""


@pytest.mark.parametrize("asked", [pytest.param("0", marks=pytest.mark.slow), "1"])
def test_each_step_and_each_layer_of_it_is_a_range(asked, small_model, tmp_path):
    job = Job(str(small_model), [[5] * 70, [6] * 9], max_tokens=4)
    job.env = {"VLLM_CUSTOM_SCOPES_FOR_PROFILING": asked}
    (seen, stats), _ = run_script(str(JOB), job, tmp_path)
    steps = stats["steps"] if asked == "1" else 0
    # On a CPU nothing is copied.
    assert seen == ({"gdn.plan": steps, "gdn.layer": LAYERS * steps} if steps else {})
