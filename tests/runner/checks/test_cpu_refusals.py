# SPDX-License-Identifier: Apache-2.0
"""What the CPU worker refuses beyond what every worker does."""

from __future__ import annotations

import pytest
from vllm.config import MultiModalConfig

import ascend_gdn.runner
from ascend_gdn.runner.checks.cpu_refusals import refuse_unsupported_on_cpu

from .test_refusals import NO_IMAGES, config


@pytest.mark.parametrize(
    "options", [{"language_model_only": True}, {"skip_mm_profiling": True}, NO_IMAGES]
)
def test_a_model_that_serves_text_alone_passes(options):
    refuse_unsupported_on_cpu(config(multimodal_config=MultiModalConfig(**options)))
    refuse_unsupported_on_cpu(config())


@pytest.mark.parametrize("limits", [{}, {"image": 0}, {"video": 0}, {"image": 1, "video": 0}])
def test_images_are_refused_by_the_worker_before_anything_is_loaded(limits):
    vllm_config = config(multimodal_config=MultiModalConfig(limit_per_prompt=limits))
    with pytest.raises(ValueError, match=r"takes images.*; pass --language-model-only"):
        ascend_gdn.runner.CPUWorker(vllm_config)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_context_parallelism_is_refused(phase):
    vllm_config = config(**{f"{phase}_context_parallel_size": 2})
    with pytest.raises(ValueError, match=f"of .*2 in {phase}.*leave out --prefill-context"):
        refuse_unsupported_on_cpu(vllm_config)


def test_experts_spread_over_ranks_are_refused():
    refuse_unsupported_on_cpu(config(enable_expert_parallel=True))
    refuse_unsupported_on_cpu(config(tensor_parallel_size=2))
    with pytest.raises(ValueError, match=r"got --enable-expert-parallel on 2 ranks.*leave it out"):
        refuse_unsupported_on_cpu(config(enable_expert_parallel=True, tensor_parallel_size=2))


def test_prompts_that_no_step_can_take_are_refused():
    """vLLM 0.23.0 itself switches chunks off on a CPU with AMX, and lets them wait for ever."""
    refuse_unsupported_on_cpu(config())
    whole = {"enable_chunked_prefill": False, "max_model_len": 2048}
    refuse_unsupported_on_cpu(config(**whole))
    expected = r"got --max-num-batched-tokens 2047 without .* at least 2048, .*--max-model-len 2047"
    with pytest.raises(ValueError, match=expected):
        refuse_unsupported_on_cpu(config(**whole, max_num_batched_tokens=2047))
