# SPDX-License-Identifier: Apache-2.0
"""CPU: what the worker refuses before anything is loaded."""

from __future__ import annotations

from vllm.config import VllmConfig

from ascend_gdn.runner.validation import raise_if_refused, vision_options


def refuse_unsupported_on_cpu(vllm_config: VllmConfig) -> None:
    """Raise ``ValueError`` naming what this worker does not support on CPU."""
    vision = vision_options(vllm_config.model_config)
    raise_if_refused(
        [
            (
                # Once it is loaded vLLM 0.23.0 profiles it on a placeholder without an image
                # (`_apply_hf_processor_text_only` in multimodal/processing/processor.py), which
                # the processors of transformers 5 refuse.
                vision is not None and not vision.skip_mm_profiling,
                "got a model that takes images, expected text alone; pass --language-model-only",
            ),
        ]
    )
