# SPDX-License-Identifier: Apache-2.0
"""CPU: what the worker refuses before anything is loaded."""

from __future__ import annotations

from vllm.config import VllmConfig

from ascend_gdn.runner.checks.errors import raise_if_refused
from ascend_gdn.runner.checks.refusals import vision_options


def refuse_unsupported_on_cpu(vllm_config: VllmConfig) -> None:
    """Raise ``ValueError`` naming what this worker does not support on CPU."""
    vision = vision_options(vllm_config.model_config)
    parallel = vllm_config.parallel_config
    contexts = (parallel.prefill_context_parallel_size, parallel.decode_context_parallel_size)
    ranks = parallel.tensor_parallel_size * parallel.data_parallel_size
    scheduler, longest = vllm_config.scheduler_config, vllm_config.model_config.max_model_len
    budget = scheduler.max_num_batched_tokens
    raise_if_refused(
        (
            # Once it is loaded vLLM 0.23.0 profiles it on a placeholder without an image
            # (`_apply_hf_processor_text_only` in multimodal/processing/processor.py), which the
            # processors of transformers 5 refuse.
            vision is not None and not vision.skip_mm_profiling,
            "got a model that takes images, expected text alone; pass --language-model-only",
        ),
        (
            # check_attention_cp_compatibility in v1/worker/cp_utils.py (0.23.0) says so once the
            # model is loaded and profiled.
            contexts != (1, 1),
            f"got context parallelism of {contexts[0]} in prefill and {contexts[1]} in decode, "
            "expected 1: vLLM's attention for CPU has none; leave out "
            "--prefill-context-parallel-size and --decode-context-parallel-size",
        ),
        (
            # model_executor/layers/fused_moe/cpu_fused_moe.py (0.23.0) takes expert_map and does
            # not read it: a rank takes other experts' numbers for its own, and reads past the end
            # of their weights.
            parallel.enable_expert_parallel and ranks > 1,
            f"got --enable-expert-parallel on {ranks} ranks, which end by a segmentation fault in "
            "vLLM's experts for CPU; leave it out",
        ),
        (
            # On a CPU with AMX vLLM 0.23.0 switches it off for models with GDN layers
            # (platforms/cpu.py:154), after it has compared the two: a longer prompt waits for ever.
            not scheduler.enable_chunked_prefill and budget < longest,
            f"got --max-num-batched-tokens {budget} without chunked prefill, which vLLM 0.23.0 "
            f"switches off on a CPU with AMX, expected at least {longest}, the model's length; "
            f"pass that, or --max-model-len {budget}",
        ),
    )
