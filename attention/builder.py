# SPDX-License-Identifier: Apache-2.0
"""The GDN metadata builder: one per KV cache group, one plan per scheduler step."""

from __future__ import annotations

from copy import copy
from time import perf_counter_ns

import numpy as np
import torch
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadataBuilder

from ascend_gdn.attention.batch_split import BatchSplit, split_batch
from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata, GDNPrefillFallbackMeta
from ascend_gdn.attention.step import GDNStep, GDNSteps
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata


class StepGDNAttentionMetadataBuilder(GDNAttentionMetadataBuilder):
    """Builds a step once, for all KV cache groups.

    The first group's builder splits the batch and has the step planned; the others take the same
    tables with their own state indices. Steps with prefills take their slots in turn; steps without
    have one at fixed addresses, as the full graphs captured for them need.
    """

    metadata_cls = StepGDNAttentionMetadata
    chunk_cls = GDNChunkedPrefillMetadata
    conv_block = 0
    """Of the ``TableLayout`` that it needs."""
    plans_decodes = True
    """Whether steps that have nothing but decodes, drafts or not, are planned here."""
    _steps: GDNSteps | None = None
    _group = 0

    def bind(self, steps: GDNSteps, group: int) -> None:
        """Connect to the runner. ``group`` counts the KV cache groups of GDN layers from 0."""
        self._steps = steps
        self._group = group
        self._uniform: dict[tuple[int, int, int, bool], StepGDNAttentionMetadata] = {}

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        num_accepted_tokens: torch.Tensor | None = None,
        num_decode_draft_tokens_cpu: torch.Tensor | None = None,
        fast_build: bool = False,
    ) -> StepGDNAttentionMetadata:
        """Build the metadata of this group for the open step.

        Raises:
            GDNContractError: outside an open step, or beyond the pool's capacity.
        """
        step, common = self._open_step(), common_attn_metadata
        if step.uniform:  # and planned
            return self._uniform_metadata(step, common)
        started = perf_counter_ns()
        split = self._split(step, common, num_decode_draft_tokens_cpu)
        shared, reused = step.shared, step.shared is not None
        if shared is None:
            step.plan(split, self.chunk_cls)
            if step.uniform:
                return self._uniform_metadata(step, common)
            shared = step.shared = self._shared_metadata(step, split, common)
        metadata = copy(shared)
        self._add_group(metadata, step, split)
        if step.chunk is not None:
            step.stats.plans_reused += reused
            step.stats.host_ns += perf_counter_ns() - started
        return metadata

    def _open_step(self) -> GDNStep:
        step = self._steps.current if self._steps is not None else None
        if step is None:
            raise GDNContractError(
                layer=type(self).__name__,
                field="GDNStep",
                found="no open step" if self._steps is not None else "a builder bound to no runner",
                expected="a step opened around _build_attention_metadata",
                cause="metadata built by a runner without ascend-gdn's step; start vLLM with "
                "--worker-cls ascend_gdn.runner.<NPU|GPU|CPU>Worker",
            )
        return step

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

    def _uniform_metadata(
        self, step: GDNStep, common: CommonAttentionMetadata
    ) -> StepGDNAttentionMetadata:
        """Of a step of decodes, or of requests that verify as many drafts as there can be.

        Its tensors are at fixed addresses: what was made for as many requests still fits.
        """
        split = step.split
        assert split is not None  # planned
        graph = self._is_replayed(common)
        key = (split.num_decodes, split.num_tokens, common.num_actual_tokens, graph)
        metadata = self._uniform.get(key)
        if metadata is None:
            metadata = self._uniform[key] = self._shared_metadata(step, split, common)
            self._add_group(metadata, step, split)
        return metadata

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

    def _add_group(
        self, metadata: StepGDNAttentionMetadata, step: GDNStep, split: BatchSplit
    ) -> None:
        """Add what is this group's own."""
        slot, group, chunk = step.slot, self._group, step.chunk
        if split.spec is not None:
            indices = slot.group_rows("spec_state_indices", step.spec_rows)[group]
            metadata.spec_state_indices_tensor = indices
        if chunk is not None or split.spec is None:
            indices = slot.group_rows("state_indices", step.rows)[group]
            metadata.non_spec_state_indices_tensor = indices
        if chunk is not None:
            indices = slot.group_rows("prefill_state_indices", split.num_prefills)[group]
            metadata.prefill_state_indices = indices
            metadata.non_spec_prefill_fallback_meta = GDNPrefillFallbackMeta(
                chunk, slot, step.generation, group, split.num_decodes
            )
