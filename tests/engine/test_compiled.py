# SPDX-License-Identifier: Apache-2.0
"""torch.compile: the model is compiled, and answers as it does eagerly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .job import Job, run
from .parity import assert_equals_transformers

pytestmark = pytest.mark.engine

RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(3, 1024, length).tolist() for length in (2, 65, 500, 300, 1)]


def test_compiled(small_model: Path, tmp_path: Path):
    engine = {"enforce_eager": False, "max_num_batched_tokens": 128, "max_num_seqs": 4}
    env = {
        "OMP_NUM_THREADS": "1",
        "TORCH_COMPILE_DISABLE": None,
        # Else Inductor tries each instruction set, in a process that imports torch.
        "TORCHINDUCTOR_VEC_ISA_OK": "1",
        "VLLM_CACHE_ROOT": str(tmp_path / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
    }
    result = run(Job(str(small_model), PROMPTS, engine=engine, env=env), tmp_path)
    # vLLM keeps what it compiled, each rank of a model in one file.
    assert len(list((tmp_path / "vllm" / "torch_compile_cache").rglob("rank_0_0/model"))) == 1
    assert_equals_transformers(small_model, PROMPTS, result)
    assert result.stats["plans_built"] == result.stats["prefill_steps"] > 0
