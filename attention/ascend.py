# SPDX-License-Identifier: Apache-2.0
"""Ascend: the GDN backend and builder over vLLM-Ascend's.

Steps with prefills are planned here, once for all KV cache groups. All others are vLLM-Ascend's,
but for speculative requests of unequal lengths, which its tables cannot express.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadata
from vllm.v1.kv_cache_interface import AttentionSpec
from vllm_ascend.ops.gdn_attn_builder import (
    AscendGDNAttentionBackend,
    AscendGDNAttentionMetadataBuilder,
)

from ascend_gdn.attention.batch_split import BatchSplit
from ascend_gdn.attention.builder import StepGDNAttentionMetadataBuilder
from ascend_gdn.attention.context_parallel import (
    ContextParallelSplit,
    ContextParallelTables,
    split_context_parallel,
    tables_of,
)
from ascend_gdn.attention.pool import Slot
from ascend_gdn.attention.spec_rows import ragged_spec_rows
from ascend_gdn.attention.step import GDNStep
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata


@dataclass
class StepAscendGDNAttentionMetadata(StepGDNAttentionMetadata):
    """With what vLLM-Ascend's operators take beside it, so that no layer has to make it."""

    decode_state_indices: torch.Tensor | None = None
    """[D] int32: state block of each decode."""
    decode_actual_seq_lengths: torch.Tensor | None = None
    """[D + 1] int32: 0, then the tokens of each decode."""
    spec_actual_seq_lengths: torch.Tensor | None = None
    """[S + 1] int32: 0, then the tokens of each speculative request."""
    spec_token_state_indices: torch.Tensor | None = None
    """[speculative tokens] int32: block of the state after each."""
    spec_first_blocks: torch.Tensor | None = None
    """[S] int32: first block of each speculative request, where its convolution's states are; made
    for versions whose operator takes no table of several columns."""
    spec_start_tokens: torch.Tensor | None = None
    """[S] int32: which of its tokens' states a request starts from, counted from 1."""
    spec_moved_states: tuple[torch.Tensor, torch.Tensor] | None = None
    """Blocks [M] int64 to copy states from, and to, before the operator runs."""
    context_parallel: ContextParallelTables | None = None
    """Under prefill context parallelism: what the ranks exchange of a step with prefills, which
    this rank may have no tokens of. ``has_initial_state`` then is all True, the convolution's."""


class StepAscendGDNAttentionMetadataBuilder(
    StepGDNAttentionMetadataBuilder, AscendGDNAttentionMetadataBuilder
):
    """One builder for each KV cache group of GDN layers."""

    metadata_cls = StepAscendGDNAttentionMetadata
    plans_decodes = False

    def __init__(
        self,
        kv_cache_spec: AttentionSpec,
        layer_names: list[str],
        vllm_config: VllmConfig,
        device: torch.device,
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self._max_seqs, self._device = vllm_config.scheduler_config.max_num_seqs, device

    @cached_property
    def _decode_lengths(self) -> torch.Tensor:
        """[max_seqs + 1] int32: a 0, then the one token of each decode.

        Not made in the constructor, which vLLM-Ascend runs in the memory pool of its KV caches
        (initialize_from_config in worker/worker.py, 0.23.0): what is in there is lost in a sleep.
        """
        lengths = torch.ones(self._max_seqs + 1, dtype=torch.int32, device=self._device)
        lengths[0] = 0
        return lengths

    def _build_first(
        self,
        step: GDNStep,
        common: CommonAttentionMetadata,
        num_accepted_tokens: torch.Tensor | None,
        draft_tokens: torch.Tensor | None,
    ) -> GDNAttentionMetadata:
        """As the step's, or vLLM-Ascend's, which every group's builder makes."""
        if self._is_planned(self._split(step, common, draft_tokens)):
            return super()._build_first(step, common, num_accepted_tokens, draft_tokens)
        if step.idle:
            draft_tokens = self._dummy_drafts(common)
            if draft_tokens is not None:
                # vLLM-Ascend's dummy run passes none (model_runner_v1.py, 0.23.0).
                num_accepted_tokens = common.query_start_loc.new_ones(common.num_reqs)
            # The runner's table may still name the blocks of requests that are gone.
            table = torch.zeros_like(common.block_table_tensor)
            common = replace(common, block_table_tensor=table)
        return self._build_upstreams(common, num_accepted_tokens, draft_tokens)

    def _build_upstreams(
        self,
        common: CommonAttentionMetadata,
        num_accepted_tokens: torch.Tensor | None,
        draft_tokens: torch.Tensor | None,
    ) -> GDNAttentionMetadata:
        return AscendGDNAttentionMetadataBuilder.build(
            self, 0, common, num_accepted_tokens, draft_tokens
        )

    def _split_batch(
        self, step: GDNStep, common: CommonAttentionMetadata, draft_tokens: torch.Tensor | None
    ) -> BatchSplit:
        batch = step.inputs.context_parallel
        if batch is None:
            return super()._split_batch(step, common, draft_tokens)
        return split_context_parallel(
            common.query_start_loc_cpu.numpy(), common.seq_lens_cpu_upper_bound.numpy(), batch
        )

    def _is_planned(self, split: BatchSplit) -> bool:
        if isinstance(split, ContextParallelSplit):  # alike on all ranks
            return len(split.prefills) > 0
        return split.num_prefills > 0 or not split.is_uniform(self.num_spec)

    def _shared_metadata(
        self, step: GDNStep, split: BatchSplit, common: CommonAttentionMetadata
    ) -> Any:
        metadata = super()._shared_metadata(step, split, common)
        if split.num_decodes > 0:
            metadata.decode_actual_seq_lengths = self._decode_lengths[: split.num_decodes + 1]
        if split.spec is not None:
            lengths = step.slot.rows("spec_actual_seq_lengths", len(split.spec) + 1)
            metadata.spec_actual_seq_lengths = lengths
            metadata.spec_start_tokens = metadata.num_accepted_tokens
        return metadata

    def _add_groups(self, groups: list[Any], step: GDNStep, split: BatchSplit) -> None:
        super()._add_groups(groups, step, split)
        decodes, slot = split.num_decodes, step.slot
        if isinstance(split, ContextParallelSplit):
            for group, metadata in enumerate(groups):
                metadata.context_parallel = tables_of(slot, split, group)
        if decodes > 0:
            views = slot.group_rows("state_indices", decodes)
            for metadata, indices in zip(groups, views, strict=True):
                metadata.decode_state_indices = indices
        if split.spec is None:
            return
        if split.is_uniform(self.num_spec):
            views = slot.group_rows("spec_token_state_indices", split.num_spec_tokens)
            for metadata, indices in zip(groups, views, strict=True):
                metadata.spec_token_state_indices = indices
            return
        for group, metadata in enumerate(groups):
            self._add_ragged(metadata, slot, group, len(split.spec))

    def _add_ragged(self, metadata: Any, slot: Slot, group: int, requests: int) -> None:
        tables = slot.host_tables
        ragged = ragged_spec_rows(
            tables["spec_state_indices"][group, :requests],
            tables["spec_actual_seq_lengths"][1 : requests + 1],
            tables["num_accepted_tokens"][:requests],
        )
        # Rare (the token budget or the model's length cut a request's drafts), so not in the pool.
        metadata.spec_token_state_indices = self._to_device(ragged.state_indices)
        metadata.spec_start_tokens = self._to_device(ragged.num_accepted_tokens)
        if len(ragged.moved_to):
            metadata.spec_moved_states = (
                self._to_device(ragged.moved_from),
                self._to_device(ragged.moved_to),
            )

    def _to_device(self, values: Any) -> torch.Tensor:
        return torch.from_numpy(values).to(self._decode_lengths.device)


class StepAscendGDNAttentionBackend(AscendGDNAttentionBackend):
    """vLLM-Ascend's GDN backend with the step's builder."""

    @staticmethod
    def get_builder_cls() -> type[StepAscendGDNAttentionMetadataBuilder]:
        return StepAscendGDNAttentionMetadataBuilder
