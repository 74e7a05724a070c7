# SPDX-License-Identifier: Apache-2.0
"""The GDN metadata builder: one per KV cache group, one plan per scheduler step."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Any

import numpy as np
import torch
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadata, GDNAttentionMetadataBuilder

from ascend_gdn.attention.batch_split import BatchSplit, split_batch
from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata, GDNPrefillFallbackMeta
from ascend_gdn.attention.step import GDNStep, GDNSteps
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata
from ascend_gdn.attention.step_record import StepRecord


class StepGDNAttentionMetadataBuilder(GDNAttentionMetadataBuilder):
    """Builds a step once, for all KV cache groups.

    The first group's builder splits the batch, has the step planned and makes what all groups are
    given: the same tables, each with its own state indices. Steps with prefills take their slots in
    turn; steps without have one at fixed addresses, as the full graphs captured for them need.
    """

    metadata_cls = StepGDNAttentionMetadata
    chunk_cls = GDNChunkedPrefillMetadata
    plans_decodes = True
    """Whether steps that have nothing but decodes, drafts or not, are planned here."""
    _steps: GDNSteps | None = None
    _group = 0

    def bind(self, steps: GDNSteps, group: int) -> None:
        """Connect to the runner. ``group`` counts the KV cache groups of GDN layers from 0."""
        self._steps = steps
        self._group = group

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        num_accepted_tokens: torch.Tensor | None = None,
        num_decode_draft_tokens_cpu: torch.Tensor | None = None,
        fast_build: bool = False,
    ) -> GDNAttentionMetadata:
        """Build the metadata of this group for the open step.

        Raises:
            GDNContractError: outside an open step, or beyond the pool's capacity.
        """
        steps = self._steps
        # A call spared: with 48 groups each costs a step 5 us.
        step = self._open_step() if steps is None or steps.current is None else steps.current
        if step.groups is None:
            drafts = num_decode_draft_tokens_cpu
            return self._build_first(step, common_attn_metadata, num_accepted_tokens, drafts)
        if step.chunk is not None:
            step.stats.plans_reused += 1
        return step.groups[self._group]

    def _build_first(
        self,
        step: GDNStep,
        common: CommonAttentionMetadata,
        num_accepted_tokens: torch.Tensor | None,
        draft_tokens: torch.Tensor | None,
    ) -> GDNAttentionMetadata:
        """Make what the builders of all groups hand out."""
        started = perf_counter_ns()
        split = self._split(step, common, draft_tokens)
        step.plan(split, self.chunk_cls)
        step.groups = groups = self._groups(step, split, common)
        if step.chunk is not None:
            step.stats.host_ns += perf_counter_ns() - started
        if step.verifier is not None:
            record = StepRecord.of(step.slot.layout, common, draft_tokens, step.inputs)
            verified = step.verifier.check(record, step.slot, groups)
            for metadata in groups:
                metadata.verified = verified
        return groups[self._group]

    def _open_step(self) -> GDNStep:
        steps = self._steps
        if steps is not None and steps.current is not None:
            return steps.current
        raise GDNContractError(
            layer=type(self).__name__,
            field="GDNStep",
            found="a builder bound to no runner" if steps is None else "no open step",
            expected="a step opened around _build_attention_metadata",
            cause="metadata built by a runner without ascend-gdn's step; start vLLM with "
            "--worker-cls ascend_gdn.runner.<NPU|GPU|CPU>Worker",
        )

    def _split(
        self, step: GDNStep, common: CommonAttentionMetadata, draft_tokens: torch.Tensor | None
    ) -> BatchSplit:
        """The step's split, made by the first builder that asks."""
        if step.split is None:
            if step.idle:
                draft_tokens = self._dummy_drafts(common)
            step.split = self._split_batch(step, common, draft_tokens)
            if step.split.spec is not None and step.inputs.num_accepted_tokens is None:
                raise GDNContractError(
                    layer=type(self).__name__,
                    field="StepInputs.num_accepted_tokens",
                    found="None",
                    expected="accepted tokens of every request",
                    cause="speculative requests, but a runner without a speculative_config",
                )
        return step.split

    def _dummy_drafts(self, common: CommonAttentionMetadata) -> torch.Tensor | None:
        """Draft tokens of a dummy batch; the runner's are those of the last real step.

        Decodes in a speculative configuration speculate: a graph that was captured for them finds
        its inputs refreshed.
        """
        if self.use_spec_decode and common.max_query_len <= self.num_spec + 1:
            return torch.ones(common.num_reqs, dtype=torch.int32)
        return None

    def _split_batch(
        self, step: GDNStep, common: CommonAttentionMetadata, draft_tokens: torch.Tensor | None
    ) -> BatchSplit:
        # Exact for every request whose context length matters here (prefills): see the field's
        # docstring in vllm/v1/attention/backend.py (0.23.0). No device-to-host copy.
        seq_lens = common.seq_lens_cpu_upper_bound
        if seq_lens is None:
            raise GDNContractError(
                layer=type(self).__name__,
                field="common_attn_metadata.seq_lens_cpu_upper_bound",
                found="None",
                expected="host sequence lengths",
                cause="a model runner that does not set them; vLLM 0.23.0's does",
            )
        return split_batch(
            common.query_start_loc_cpu.numpy(),
            seq_lens.numpy(),
            # vLLM's runner leaves draft tokens out where nothing speculates.
            None if draft_tokens is None else draft_tokens.numpy(),
            step.inputs.num_accepted_tokens,
            step.idle,
        )

    def _groups(
        self, step: GDNStep, split: BatchSplit, common: CommonAttentionMetadata
    ) -> list[StepGDNAttentionMetadata]:
        """A group each.

        A uniform step's tensors are at fixed addresses: what was made for as many requests still
        fits.
        """
        groups = None
        if step.uniform:
            graph = self._is_replayed(common)
            key = (split.num_decodes, split.num_tokens, common.num_actual_tokens, graph)
            groups = step.kept.get(key)
        if groups is None:
            shared = self._shared_metadata(step, split, common)
            groups = [shared.copy() for _ in range(step.slot.layout.num_groups)]
            self._add_groups(groups, step, split)
            if step.uniform:
                step.kept[key] = groups
        return groups

    def _is_replayed(self, common: CommonAttentionMetadata) -> bool:
        """Whether a full graph runs a step without prefills."""
        return self.use_full_cuda_graph and common.num_reqs <= self.decode_cudagraph_max_bs

    def _shared_metadata(
        self, step: GDNStep, split: BatchSplit, common: CommonAttentionMetadata
    ) -> StepGDNAttentionMetadata:
        """What all KV cache groups have in common.

        The fields are those of ``GDNAttentionMetadataBuilder.build`` in
        vllm/v1/attention/backends/gdn_attn.py (0.23.0).
        """
        slot, chunk, spec_mask = step.slot, step.chunk, split.spec_mask
        rows, spec_rows = len(split.non_spec), 0 if split.spec is None else len(split.spec)
        metadata = self.metadata_cls(
            num_prefills=split.num_prefills,
            num_prefill_tokens=split.num_prefill_tokens,
            num_decodes=split.num_decodes,
            num_decode_tokens=split.num_decodes,
            num_spec_decodes=spec_rows,
            num_spec_decode_tokens=split.num_spec_tokens,
            num_actual_tokens=common.num_actual_tokens,
        )
        if chunk is None and self._is_replayed(common):  # it expects a row for each padded token
            padded = min(common.num_actual_tokens, slot.layout.max_seqs)
            rows, spec_rows = (padded, 0) if spec_mask is None else (0, padded)
        step.rows, step.spec_rows = rows, spec_rows
        if spec_mask is not None:
            masks = spec_rows if chunk is None else len(spec_mask)
            others, tokens = split.num_prefill_tokens, split.num_tokens
            token_indx = slot.device_tables["token_indx"]
            metadata.spec_first = split.spec_first
            metadata.spec_query_start_loc = slot.rows("spec_query_start_loc", spec_rows + 1)
            metadata.spec_sequence_masks = slot.rows("spec_sequence_masks", masks)
            metadata.num_accepted_tokens = slot.rows("num_accepted_tokens", spec_rows)
            metadata.non_spec_token_indx = token_indx[:others]
            metadata.spec_token_indx = token_indx[others:tokens]
        if chunk is not None or spec_mask is None:
            metadata.non_spec_query_start_loc = slot.rows("query_start_loc", rows + 1)
        if chunk is not None:
            decodes, has_initial_state = split.num_decodes, slot.rows("has_initial_state", rows)
            metadata.has_initial_state = has_initial_state
            if decodes:
                has_initial_state = has_initial_state[decodes:]
            metadata.prefill_has_initial_state = has_initial_state
            going_on = np.count_nonzero(split.non_spec.context_lens[decodes:])
            metadata.num_initial_states = int(going_on)
            metadata.prefill_query_start_loc = chunk.cu_seqlens
            metadata.chunk_indices = chunk.chunk_indices_chunk64
            metadata.chunk_offsets = chunk.chunk_offsets_chunk64
        return metadata

    def _add_groups(self, groups: list[Any], step: GDNStep, split: BatchSplit) -> None:
        """Add what is each group's own."""
        slot, chunk = step.slot, step.chunk
        if split.spec is not None:
            views = slot.group_rows("spec_state_indices", step.spec_rows)
            for metadata, indices in zip(groups, views, strict=True):
                metadata.spec_state_indices_tensor = indices
        if chunk is not None or split.spec is None:
            views = slot.group_rows("state_indices", step.rows)
            for metadata, indices in zip(groups, views, strict=True):
                metadata.non_spec_state_indices_tensor = indices
        if chunk is not None:
            views = slot.group_rows("prefill_state_indices", split.num_prefills)
            for group, (metadata, indices) in enumerate(zip(groups, views, strict=True)):
                metadata.prefill_state_indices = indices
                metadata.non_spec_prefill_fallback_meta = GDNPrefillFallbackMeta(
                    chunk, slot, step.generation, group, split.num_decodes
                )
