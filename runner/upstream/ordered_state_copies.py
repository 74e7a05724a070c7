# SPDX-License-Identifier: Apache-2.0
"""Prefix caching with MTP: copies of convolution windows that overlap, in order.

The fault: ``postprocess_mamba_fused_kernel`` (v1/worker/mamba_utils.py of vLLM 0.23.0;
ops/triton/mamba/postprocess.py of vllm-ascend 0.23.0, 0.23.0.post1 and 0.30.0rc2; vLLM 0.30.0's
own is right) moves a window within its block to the front with loads and stores that overlap, and
nothing keeps a program's warps in order: one may overwrite what another has yet to read.
vllm-project/vllm#50729, vllm-project/vllm-ascend#15592. It also takes windows with their channels
first (``VLLM_SSM_CONV_STATE_LAYOUT=DS``) for ones with their channels last
(vllm-project/vllm#45682).

Delete when the pinned versions of vLLM and vllm-ascend have those corrections.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.worker.mamba_utils import MambaBuffers, MambaSpecDecodeGPUContext

from ascend_gdn.fla.state_copies import StateLayout
from ascend_gdn.runner.base import Base
from ascend_gdn.runner.upstream.gdn_states import gdn_states
from ascend_gdn.runner.versions import vllm_version


@dataclass
class OrderedStateCopies(MambaSpecDecodeGPUContext):
    """vLLM's buffers, over which it calls ``run_fused_postprocess`` after a step with drafts."""

    layout: StateLayout | None = None
    """Set with the addresses of the states, when first they are needed."""
    gdn_layers: int = 0
    """How many there are; set with them."""

    def initialize_from_forward_context(
        self,
        kv_cache_config: KVCacheConfig,
        forward_context: dict[str, Any],
        mamba_state_copy_funcs: Any,
        block_tables: list[torch.Tensor],
    ) -> None:
        groups = (kv_cache_config.kv_cache_groups[group] for group in self.mamba_group_ids)
        names = [name for group in groups for name in group.layer_names]
        functions = vllm_version().gdn_copy_funcs(mamba_state_copy_funcs)
        states = gdn_states(names, forward_context, functions)
        self.layout, self.gdn_layers = StateLayout.of(*zip(*states, strict=True)), len(states)
        super().initialize_from_forward_context(
            kv_cache_config, forward_context, mamba_state_copy_funcs, block_tables
        )

    def run_fused_postprocess(
        self,
        num_reqs: int,
        num_accepted_tokens_gpu: torch.Tensor,
        mamba_state_idx_gpu: torch.Tensor,
        num_scheduled_tokens_gpu: torch.Tensor,
        num_computed_tokens_gpu: torch.Tensor,
        num_draft_tokens_gpu: torch.Tensor,
    ) -> None:
        """As vLLM's, without waiting for the device."""
        if num_reqs == 0:
            return
        assert self.layout is not None  # vLLM has just called what sets it
        pointers = (
            num_accepted_tokens_gpu,
            mamba_state_idx_gpu,
            num_scheduled_tokens_gpu,
            num_computed_tokens_gpu,
            num_draft_tokens_gpu,
            self.block_table_ptrs,
            self.state_base_addrs,
            self.state_group_indices,
            self.num_accepted_tokens_out,
        )
        self.layout.launch(
            num_reqs, self.gdn_layers, self.block_size, self.block_table_stride_req, pointers
        )


class OrderedStateCopiesMixin(Base):
    """Put it before a vLLM model runner in the bases."""

    _mamba_bufs: MambaBuffers | None  # vLLM's

    def _get_mamba_bufs(self) -> MambaBuffers:
        if self._mamba_bufs is None:
            bufs = super()._get_mamba_bufs()
            if bufs.postprocess_align is not None:  # with drafts
                ordered = OrderedStateCopies(**vars(bufs.postprocess_align))
                bufs = replace(bufs, postprocess_align=ordered)
            self._mamba_bufs = bufs
        return self._mamba_bufs
