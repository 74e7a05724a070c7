# SPDX-License-Identifier: Apache-2.0
"""Prefix caching with drafts: vLLM's scheduler caches states of other tokens than it says.

In align mode a full block of a GDN group stands for the state after exactly its tokens. With MTP
that is broken in two places, silently: later requests go on from a wrong state. Both are reported
as vllm-project/vllm#43559. The schedulers here are for ``--scheduler-cls``.

Versions: vLLM 0.23.0; 0.30.0 is right by itself. Delete with 0.23.0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import KVCacheConfig, MambaSpec
from vllm.v1.request import Request

from ascend_gdn.runner.base import Base


class AlignedSchedulerMixin(Base):
    """Put it before a vLLM scheduler in the bases. Without MTP it changes nothing."""

    def __init__(
        self, vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, *args: Any, **kwargs: Any
    ) -> None:
        speculative = vllm_config.speculative_config
        if speculative is not None and speculative.use_eagle():
            kv_cache_config = _only_attention_drops(kv_cache_config)
        super().__init__(vllm_config, kv_cache_config, *args, **kwargs)

    def _mamba_block_aligned_split(
        self,
        request: Request,
        num_new_tokens: int,
        num_new_local_computed_tokens: int = 0,
        num_external_computed_tokens: int = 0,
    ) -> int:
        """vLLM's, but a prefill chunk that starts within a block ends with it at the latest.

        With MTP vLLM lets the last two blocks of a prompt be cut anywhere (v1/core/sched/
        scheduler.py, 0.23.0). A chunk that the token budget cuts short then leaves its state in a
        block that the next chunk fills, and the block is cached with that earlier state. Upstream's
        own cure is vllm-project/vllm#51113.
        """
        num_new_tokens = super()._mamba_block_aligned_split(
            request, num_new_tokens, num_new_local_computed_tokens, num_external_computed_tokens
        )
        num_computed = request.num_computed_tokens
        num_computed += num_new_local_computed_tokens + num_external_computed_tokens
        block_size = self.cache_config.block_size
        within = num_computed % block_size
        if within and num_computed < max(request.num_prompt_tokens, request.num_tokens - 1):
            return min(num_new_tokens, block_size - within)
        return num_new_tokens


def _only_attention_drops(kv_cache_config: KVCacheConfig) -> KVCacheConfig:
    """Mark the groups whose cache hits MTP shortens by a block: those of attention layers.

    Where none is marked vLLM takes all (v1/core/kv_cache_coordinator.py, 0.23.0). But a GDN group's
    state cannot be taken back by a block: its hit comes out a block longer than that of attention,
    and attention reads a block that nobody has computed.
    """
    groups = [
        replace(group, is_eagle_group=not isinstance(group.kv_cache_spec, MambaSpec))
        for group in kv_cache_config.kv_cache_groups
    ]
    return replace(kv_cache_config, kv_cache_groups=groups)


class AlignedScheduler(AlignedSchedulerMixin, Scheduler):
    """``--scheduler-cls ascend_gdn.runner.align_scheduler.AlignedScheduler``."""


class AlignedAsyncScheduler(AlignedSchedulerMixin, AsyncScheduler):
    """The same with asynchronous scheduling."""
