# SPDX-License-Identifier: Apache-2.0
"""Prefix caching on CPU: nothing copies GDN states between a request's blocks.

With ``mamba_cache_mode="align"`` a request's state is in the block in which its last step ended,
and after each full block of tokens one copy stays behind for later requests to start from. vLLM
0.23.0 decides on the host which state goes where, or on the device after a step that verified
draft tokens, and copies with Triton kernels (v1/worker/mamba_utils.py), which it does not have on
CPU. Here are the same decisions as :class:`StateCopy`, and the copies on plain tensors, at the same
places of a step.

Blocks are counted within a request: block ``i`` holds its tokens ``i * block_size`` to
``(i + 1) * block_size - 1``. A step with K draft tokens saves the recurrent state after its first
token in the running block, and those after the following ones in the K blocks behind it; the
convolution's windows after all of its tokens overlap in the running block.

Versions: vLLM 0.23.0, and 0.30.0 with drafts: without, that one copies by itself. Delete when its
CPU platform copies them with drafts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.worker.mamba_utils import MambaBuffers, cleanup_mamba_state_idx

from ascend_gdn.runner.base import Base
from ascend_gdn.runner.upstream.gdn_states import states_by_group


class StateCopy(NamedTuple):
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
    Arguments as above, but ``running`` and ``num_accepted`` are of this step too: 1 and the draft
    tokens that it accepted, of ``num_drafts`` among those scheduled.

    Returns:
        The copy; None if no block ends at a kept token. A copy within the running block moves the
        last kept token's state to its front, where the next step finds it as if it had kept one
        token.
    """
    num_sure = num_computed + num_scheduled - num_drafts
    filled = (num_sure + num_accepted - 1) // block_size
    end = filled * block_size
    return StateCopy(running, filled - 1, end - num_sure) if end >= num_sure else None


class AlignedStates:
    """The states of a model in align mode, as the copies see them. vLLM's KV cache owns them.

    Arguments and errors are those of :func:`states_by_group`, and a ``ValueError`` for draft tokens
    that may fill more than one block a step.
    """

    def __init__(
        self, kv_cache_config: KVCacheConfig, layers: Mapping[str, Any], copy_funcs: Sequence[Any]
    ) -> None:
        self.groups = states_by_group(kv_cache_config, layers, copy_funcs)
        first = next(iter(self.groups))  # a model's GDN layers are all alike
        spec = kv_cache_config.kv_cache_groups[first].kv_cache_spec
        if spec.num_speculative_blocks >= spec.block_size:
            raise ValueError(
                f"ascend-gdn: got {spec.num_speculative_blocks} speculative tokens and state "
                f"blocks of {spec.block_size}, expected fewer tokens than a block holds: lower "
                "num_speculative_tokens or raise --block-size"
            )
        self.block_size = spec.block_size

    def copy(self, blocks: Sequence[Sequence[int]], copy: StateCopy) -> None:
        """Make one copy in every layer. ``blocks`` are the request's by KV cache group."""
        for group, states in self.groups.items():
            own = blocks[group]
            source, target = own[copy.source], own[copy.target]
            saved = own[copy.source + copy.later]
            for windows, recurrent in states:
                kept = windows[source, copy.later :].clone()  # a copy within one block overlaps
                windows[target, : len(kept)] = kept
                recurrent[target] = recurrent[saved]


class AlignedStatesMixin(Base):
    """Put it before vLLM's CPU model runner in the bases."""

    aligned_states: AlignedStates | None = None
    """Set in align mode when vLLM has made the KV cache."""
    _mamba_bufs: MambaBuffers | None  # vLLM's

    def copies_are_missing(self) -> bool:
        """Whether vLLM copies no states where it should."""
        return self.cache_config.mamba_cache_mode == "align"

    def initialize_kv_cache(self, *args: Any, **kwargs: Any) -> None:
        super().initialize_kv_cache(*args, **kwargs)
        if self.copies_are_missing():
            self.aligned_states = AlignedStates(
                self.kv_cache_config,
                self.compilation_config.static_forward_context,
                self.model.get_mamba_state_copy_func(),
            )

    def _get_mamba_bufs(self) -> MambaBuffers:
        """Buffers with which vLLM's align mode keeps its indices and counts, and copies nothing."""
        if self._mamba_bufs is None:
            bufs = super()._get_mamba_bufs()
            if self.aligned_states is not None:
                # preprocess_mamba copies the states of the groups that they name (0.23.0), or with
                # postprocess_align by a Triton kernel (0.30.0).
                nothing = replace(bufs.preprocess, mamba_group_ids=[])
                bufs = replace(bufs, preprocess=nothing, postprocess_align=None)
            self._mamba_bufs = bufs
        return self._mamba_bufs

    def _prepare_inputs(self, scheduler_output: SchedulerOutput, *args: Any, **kwargs: Any) -> Any:
        states = self.aligned_states
        if states is None:
            return super()._prepare_inputs(scheduler_output, *args, **kwargs)
        # The batch is complete (_update_states), and preprocess_mamba has not yet moved its indices
        # and reset its counts (execute_model in gpu_model_runner.py, 0.23.0).
        cleanup_mamba_state_idx(scheduler_output, self.mamba_state_idx)
        for row, req_id in enumerate(self.input_batch.req_ids):
            request = self.requests[req_id]
            copy = copy_before_step(
                self.mamba_state_idx.get(req_id),
                request.num_computed_tokens,
                scheduler_output.num_scheduled_tokens[req_id],
                int(self.input_batch.num_accepted_tokens_cpu[row]),
                states.block_size,
            )
            if copy is not None:
                states.copy(request.block_ids, copy)
        return super()._prepare_inputs(scheduler_output, *args, **kwargs)

    def _update_states_after_model_execute(
        self, output_token_ids: torch.Tensor, scheduler_output: SchedulerOutput
    ) -> None:
        states = self.aligned_states
        if self.speculative_config is None or states is None:
            super()._update_states_after_model_execute(output_token_ids, scheduler_output)
            return
        # As vLLM's, which would run postprocess_mamba_fused_kernel here. On CPU there is nothing to
        # wait for, so num_accepted_tokens_event needs no record.
        num_reqs = len(output_token_ids)
        self.num_accepted_tokens.cpu[:num_reqs] = (output_token_ids != -1).sum(dim=1)
        counts = self.input_batch.num_accepted_tokens_cpu
        counts[:num_reqs] = self.num_accepted_tokens.np[:num_reqs]
        for row, req_id in enumerate(self.input_batch.req_ids[:num_reqs]):
            request = self.requests[req_id]
            copy = copy_after_step(
                self.mamba_state_idx[req_id],
                request.num_computed_tokens,
                scheduler_output.num_scheduled_tokens[req_id],
                len(scheduler_output.scheduled_spec_decode_tokens.get(req_id, ())),
                int(counts[row]),
                states.block_size,
            )
            if copy is not None:
                states.copy(request.block_ids, copy)
                if copy.source == copy.target:
                    counts[row] = 1
