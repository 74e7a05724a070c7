# SPDX-License-Identifier: Apache-2.0
"""Prefix caching on CPU: the copies of GDN states between a request's blocks.

With ``mamba_cache_mode="align"`` a request's state is in the block in which its last step ended,
and after each full block of tokens one copy stays behind for later requests to start from. vLLM
0.23.0 decides on the host which state goes where, or on the device after a step that verified
draft tokens, and copies with Triton kernels (v1/worker/mamba_utils.py), which it does not have on
CPU. Here are the same decisions as :class:`StateCopy`, and the copies on plain tensors.

Blocks are counted within a request: block ``i`` holds its tokens ``i * block_size`` to
``(i + 1) * block_size - 1``. A step with K draft tokens saves the recurrent state after its first
token in the running block, and those after the following ones in the K blocks behind it; the
convolution's windows after all of its tokens overlap in the running block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from vllm.model_executor.layers.mamba.mamba_utils import (
    MambaStateCopyFunc,
    get_conv_copy_spec,
    get_temporal_copy_spec,
    is_conv_state_dim_first,
)
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.utils import CpuGpuBuffer
from vllm.v1.worker.mamba_utils import MambaBuffers, get_mamba_groups


@dataclass(frozen=True)
class StateCopy:
    """One copy of a request's states, of all layers; blocks counted within the request."""

    source: int
    """The running block of the step that saved the state."""
    target: int
    """Block to copy to."""
    later: int = 0
    """Which of that step's states: the one after its first token (0), or after one ``later``."""


def copy_before_step(
    running: int | None, num_computed: int, num_scheduled: int, num_accepted: int, block_size: int
) -> StateCopy | None:
    """What takes a request's state to the block in which its next step ends.

    The rule of ``preprocess_mamba`` (vllm/v1/worker/mamba_utils.py, 0.23.0).

    Args:
        running: Running block of the request's last step; None if it has had none since it was
            scheduled first or anew. Then it starts from a cached block, if it has computed tokens.
        num_computed: Tokens before the step.
        num_scheduled: Tokens of the step, draft tokens included.
        num_accepted: Tokens that the request kept of its last step, 1 without draft tokens.
        block_size: Tokens a block.

    Returns:
        The copy; None for a request that has no state or goes on in the same block.
    """
    source = (num_computed - 1) // block_size if running is None else running
    target = (num_computed + num_scheduled - 1) // block_size
    if source in (-1, target):
        return None
    return StateCopy(source, target, num_accepted - 1)


def copy_after_step(
    running: int,
    num_computed: int,
    num_scheduled: int,
    num_drafts: int,
    num_accepted: int,
    block_size: int,
) -> StateCopy | None:
    """What leaves the state at the end of a block that the kept tokens filled, in that block.

    The rule of ``postprocess_mamba_fused_kernel`` (vllm/v1/worker/mamba_utils.py, 0.23.0).

    Args:
        running: Running block of the step.
        num_computed: Tokens before the step.
        num_scheduled: Tokens of the step, draft tokens included.
        num_drafts: Draft tokens among them.
        num_accepted: Tokens kept of the step: 1 and the accepted draft tokens.
        block_size: Tokens a block.

    Returns:
        The copy; None if no block ends at a kept token. A copy within the running block moves the
        last kept token's state to its front, where the next step finds it as if it had kept one
        token.
    """
    num_sure = num_computed + num_scheduled - num_drafts
    num_kept = num_sure + num_accepted - 1
    filled = num_kept // block_size
    end = filled * block_size
    if end < num_sure:
        return None
    return StateCopy(running, filled - 1, end - num_sure)


@dataclass(frozen=True)
class GroupStates:
    """The states of one KV cache group's layers, two tensors a layer."""

    group: int
    """The KV cache group, whose blocks hold them."""
    windows: Sequence[torch.Tensor]
    """The convolution's: [blocks, W - 1 + K, conv_dim] each, any strides."""
    recurrent: Sequence[torch.Tensor]
    """[blocks, ...] each."""


class AlignedStates:
    """The states of a model in align mode, as the copies see them. vLLM's KV cache owns them.

    Args:
        kv_cache_config: Of the model runner.
        layers: vLLM's static forward context: the layers by name, their KV cache bound.
        copy_funcs: The model's ``get_mamba_state_copy_func()``: one for each of a layer's tensors.

    Raises:
        ValueError: for a kind of state that has neither of vLLM's two copy functions, or draft
            tokens that may fill more than one block a step.
    """

    def __init__(
        self,
        kv_cache_config: KVCacheConfig,
        layers: Mapping[str, Any],
        copy_funcs: tuple[MambaStateCopyFunc, ...],
    ) -> None:
        if copy_funcs != (get_conv_copy_spec, get_temporal_copy_spec):
            raise ValueError(
                f"ascend-gdn: got state copy functions {copy_funcs}, expected vLLM's for a "
                "convolution and a recurrent state: the model keeps another kind of state"
            )
        group_ids, spec = get_mamba_groups(kv_cache_config)
        if spec.num_speculative_blocks >= spec.block_size:
            raise ValueError(
                f"ascend-gdn: got {spec.num_speculative_blocks} speculative tokens and state "
                f"blocks of {spec.block_size}, expected fewer tokens than a block holds: lower "
                "num_speculative_tokens or raise --block-size"
            )
        self.block_size = spec.block_size
        self.groups = []
        for group in group_ids:
            names = kv_cache_config.kv_cache_groups[group].layer_names
            windows, recurrent = zip(*(layers[name].kv_cache for name in names), strict=True)
            if is_conv_state_dim_first():
                windows = tuple(state.transpose(1, 2) for state in windows)
            self.groups.append(GroupStates(group, windows, recurrent))

    def copy(self, blocks: Sequence[Sequence[int]], copy: StateCopy) -> None:
        """Make one copy in every layer.

        Args:
            blocks: The request's blocks by KV cache group.
            copy: Which to which.
        """
        for states in self.groups:
            own = blocks[states.group]
            source, target = own[copy.source], own[copy.target]
            for window in states.windows:
                kept = window[source, copy.later :]
                # A copy within one block overlaps.
                window[target, : len(kept)] = kept.clone()
            saved = own[copy.source + copy.later]
            for state in states.recurrent:
                state[target] = state[saved]


def index_only_buffers(
    kv_cache_config: KVCacheConfig,
    copy_funcs: tuple[MambaStateCopyFunc, ...],
    make_buffer: Callable[..., CpuGpuBuffer],
) -> MambaBuffers:
    """Buffers with which vLLM's align mode keeps its indices and counts, and copies nothing.

    ``preprocess_mamba`` copies the states of the groups that its buffers name (0.23.0), here none.
    """
    buffers = MambaBuffers.create(
        max_num_reqs=0,
        kv_cache_config=kv_cache_config,
        copy_funcs=copy_funcs,
        make_buffer=make_buffer,
        device=torch.device("cpu"),
        with_postprocess_align=False,
    )
    return replace(buffers, preprocess=replace(buffers.preprocess, mamba_group_ids=[]))
