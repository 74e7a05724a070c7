# SPDX-License-Identifier: Apache-2.0
"""The first request finds all of its Triton kernels compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ..engine.job import run_script
from .conftest import NEXT, SIZES
from .runs import CALLS_SCRIPT, OUR_WORKER, emulated_job
from .test_workers import NO_PROMPT_LOGPROBS, assert_same_tokens

pytestmark = pytest.mark.engine

STAGES = {
    "chunk_local_cumsum",
    "chunk_scaled_dot_kkt_fwd",
    "recompute_w_u_fwd",
    "solve_tril",
}
SLOTS = "_compute_slot_mapping_kernel"
STAGED = {"EMULATED_NPU_PREFILL": "staged"}
"""Where there is no operator for a whole prefill; vllm-ascend 0.23.0 never has one."""
MTP = {"speculative_config": {"method": "qwen3_next_mtp", "num_speculative_tokens": 3}}


@pytest.mark.parametrize(
    ("engine", "slots_by_triton", "env"),
    [
        pytest.param({}, True, STAGED, id="plain"),
        pytest.param({}, True, {}, id="fused"),
        # As few tokens a step as requests, which a dummy run would give one each.
        pytest.param(
            MTP | {"max_num_seqs": 16, "max_num_batched_tokens": 16}, True, STAGED, id="mtp"
        ),
        pytest.param(
            {"prefill_context_parallel_size": 2},
            False,
            {},
            id="pcp",
            marks=[pytest.mark.slow, pytest.mark.skipif(NEXT, reason="see test_workers.py")],
        ),
    ],
)
def test_it_compiles_nothing(engine, slots_by_triton: bool, env, model: Path, tmp_path: Path):
    prompt = np.random.default_rng(2).integers(3, SIZES.vocab_size, 50).tolist()
    job = emulated_job(
        model,
        [prompt],
        worker_cls=OUR_WORKER,
        engine=engine,
        max_tokens=4,
        sampling=NO_PROMPT_LOGPROBS,
        env={"OMP_NUM_THREADS": "1", "EMULATED_NPU_WIDE": "1"} | env,
    )
    values, _ = run_script(CALLS_SCRIPT, job, tmp_path, "launched", "written_blocks")
    before, after = values["before"], values["after"]
    for started, answered in zip(before["launched"], after["launched"], strict=True):
        staged = not NEXT or bool(env)
        assert "l2norm_fwd" in answered
        assert answered.keys() & STAGES == (STAGES if staged else set())
        assert (SLOTS in answered) == slots_by_triton
        assert answered.keys() == started.keys()
    # The null block, which is nobody's.
    assert all(written == [0] for written in before["written_blocks"])
    assert_same_tokens(model, [prompt], values["result"]["tokens"])
