# SPDX-License-Identifier: Apache-2.0
"""Prefix caching with vLLM 0.23.0: steps that cannot reach the end of a block are refused."""

from __future__ import annotations

from vllm.config import VllmConfig

from ascend_gdn.runner.checks.errors import raise_if_refused


def refuse_unaligned(vllm_config: VllmConfig) -> None:
    """Raise ``ValueError`` if a step may not reach the end of a block, where states are cached.

    vLLM sets the size of a block once the model's layers are made, and then fails without a flag's
    name or a word (``validate_block_size`` in config/vllm.py, 0.23.0).
    """
    block, scheduler = vllm_config.cache_config.block_size, vllm_config.scheduler_config
    budget, threshold = scheduler.max_num_batched_tokens, scheduler.long_prefill_token_threshold
    aligns = vllm_config.cache_config.mamba_cache_mode == "align"
    expected = f"expected at least {block} with prefix caching, the tokens of a block; pass that"
    raise_if_refused(
        (
            aligns and budget < block,
            f"got --max-num-batched-tokens {budget}, {expected}, or --no-enable-prefix-caching",
        ),
        (
            aligns and 0 < threshold < block,
            f"got --long-prefill-token-threshold {threshold}, {expected}, or 0 for none",
        ),
    )
