# SPDX-License-Identifier: Apache-2.0
"""The GDN metadata builder: one per KV cache group, one plan per scheduler step."""

from __future__ import annotations

from copy import copy
from time import perf_counter_ns
from typing import Protocol

import numpy as np
import torch
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadataBuilder

from ascend_gdn.attention.batch_split import BatchSplit, split_batch
from ascend_gdn.attention.decode_plan import DecodePlan
from ascend_gdn.attention.metadata import GDNContractError
from ascend_gdn.attention.step_inputs import StepInputs
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata
from ascend_gdn.attention.step_plan import StepPlan


class Step(Protocol):
    """The runner's open step, as the builders see it. Its memory ends with the step."""

    idle: bool
    """A dummy batch: it has a shape, but no request of its own."""
    split: BatchSplit | None
    """Set by the first builder of the step."""
    plan: StepPlan | None
    """Set by the first builder of a step that has prefills."""
    shared: StepGDNAttentionMetadata | None
    """Set with it: what the builders of all groups hand out copies of."""
    decode_plan: DecodePlan | None
    """Set by the first builder of a step that has none."""

    @property
    def inputs(self) -> StepInputs: ...

    def make_plan(self, split: BatchSplit, query_start_loc: np.ndarray) -> StepPlan: ...

    def make_decode_plan(self, split: BatchSplit) -> DecodePlan: ...

    def count_build(self, host_ns: int, reused: bool) -> None: ...


class Steps(Protocol):
    """The runner's side of the contract: the step that is open now, if any."""

    @property
    def current(self) -> Step | None: ...


class StepGDNAttentionMetadataBuilder(GDNAttentionMetadataBuilder):
    """Builds a step once, for all KV cache groups.

    The first group's builder splits the batch and fills one slot of the runner's pool; the others
    take the same tables with their own state indices. Steps with prefills take their slots in turn;
    steps without have one at fixed addresses, as the full graphs captured for them need.
    """

    metadata_cls = StepGDNAttentionMetadata
    conv_block = 0
    """Of the ``TableLayout`` that it needs."""
    _steps: Steps | None = None
    _group = 0

    def bind(self, steps: Steps, group: int) -> None:
        """Connect to the runner. ``group`` counts the KV cache groups of GDN layers from 0."""
        self._steps = steps
        self._group = group
        self._decodes: dict[tuple[int, int, bool], StepGDNAttentionMetadata] = {}

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
        if step.decode_plan is not None:  # the other groups of a step without prefills
            return self._decode_metadata(step.decode_plan, common)
        started = perf_counter_ns()
        if step.idle:
            num_decode_draft_tokens_cpu = self._dummy_drafts(common)
        if step.split is None:
            step.split = self._split(common, num_decode_draft_tokens_cpu, step.inputs, step.idle)
        if step.split.num_prefills == 0:
            step.decode_plan = step.make_decode_plan(step.split)
            return self._decode_metadata(step.decode_plan, common)
        return self._planned_metadata(step, common, started)

    def _planned_metadata(
        self, step: Step, common: CommonAttentionMetadata, started: int
    ) -> StepGDNAttentionMetadata:
        assert step.split is not None
        reused = step.plan is not None
        if step.plan is None:
            step.plan = step.make_plan(step.split, common.query_start_loc_cpu.numpy())
            step.shared = self._shared_metadata(step.plan, common.num_actual_tokens)
        assert step.shared is not None  # set with the plan
        metadata = copy(step.shared)
        self._add_group(metadata, step.plan)
        step.count_build(perf_counter_ns() - started, reused)
        return metadata

    def _open_step(self) -> Step:
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

    def _dummy_drafts(self, common: CommonAttentionMetadata) -> torch.Tensor | None:
        """Draft tokens of a dummy batch; the runner's are those of the last real step.

        Decodes in a speculative configuration speculate: a graph that was captured for them finds
        its inputs refreshed.
        """
        if self.use_spec_decode and common.max_query_len <= self.num_spec + 1:
            return torch.ones(common.num_reqs, dtype=torch.int32)
        return None

    def _split(
        self,
        common: CommonAttentionMetadata,
        draft_tokens: torch.Tensor | None,
        inputs: StepInputs,
        is_dummy: bool,
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
        split = split_batch(
            common.query_start_loc_cpu.numpy(),
            seq_lens.numpy(),
            # vLLM's runner leaves draft tokens out where nothing speculates.
            None if draft_tokens is None else draft_tokens.numpy(),
            inputs.num_accepted_tokens,
            is_dummy,
        )
        if split.spec is not None and inputs.num_accepted_tokens is None:
            raise GDNContractError(
                layer=type(self).__name__,
                field="StepInputs.num_accepted_tokens",
                found="None",
                expected="accepted tokens of every request",
                cause="speculative requests, but a runner without a speculative_config",
            )
        return split

    def _decode_metadata(
        self, plan: DecodePlan, common: CommonAttentionMetadata
    ) -> StepGDNAttentionMetadata:
        tokens = common.num_actual_tokens
        padded = self.use_full_cuda_graph and common.num_reqs <= self.decode_cudagraph_max_bs
        if plan.split.spec is not None:
            return plan.metadata(self._group, tokens, padded)
        # Its tensors are at fixed addresses: what was made for as many requests still fits.
        key = (plan.split.num_tokens, tokens, padded)  # a decode has one token
        metadata = self._decodes.get(key)
        if metadata is None:
            metadata = self._decodes[key] = plan.metadata(self._group, tokens, padded)
        return metadata

    def _shared_metadata(self, plan: StepPlan, num_actual_tokens: int) -> StepGDNAttentionMetadata:
        """What all KV cache groups have in common."""
        split, seqs, decodes = plan.split, plan.seqs, plan.split.num_decodes
        has_initial_state = seqs.has_initial_state
        metadata = self.metadata_cls(
            num_prefills=split.num_prefills,
            num_prefill_tokens=split.num_prefill_tokens,
            num_decodes=decodes,
            num_decode_tokens=decodes,
            num_spec_decodes=0,
            num_spec_decode_tokens=0,
            num_actual_tokens=num_actual_tokens,
            has_initial_state=has_initial_state,
            non_spec_query_start_loc=seqs.query_start_loc,
            chunk_indices=plan.chunk.chunk_indices_chunk64,
            chunk_offsets=plan.chunk.chunk_offsets_chunk64,
            prefill_query_start_loc=plan.chunk.cu_seqlens,
            prefill_has_initial_state=has_initial_state[decodes:] if decodes else has_initial_state,
            num_initial_states=int(np.count_nonzero(split.non_spec.context_lens[decodes:])),
        )
        spec = plan.spec
        if spec is not None and split.spec is not None:
            metadata.num_spec_decodes = len(split.spec)
            metadata.num_spec_decode_tokens = split.num_spec_tokens
            metadata.spec_first = split.spec_first
            metadata.spec_query_start_loc = spec.seqs.query_start_loc
            metadata.spec_sequence_masks = spec.sequence_masks
            metadata.non_spec_token_indx = spec.non_spec_token_indx
            metadata.spec_token_indx = spec.token_indx
            metadata.num_accepted_tokens = spec.seqs.num_accepted_tokens
        return metadata

    def _add_group(self, metadata: StepGDNAttentionMetadata, plan: StepPlan) -> None:
        """Add what is this group's own."""
        metadata.non_spec_state_indices_tensor = plan.seqs.state_indices[self._group]
        metadata.prefill_state_indices = plan.prefill_seqs.prefill_state_indices[self._group]
        metadata.non_spec_prefill_fallback_meta = plan.prefill_meta(self._group)
        if plan.spec is not None:
            metadata.spec_state_indices_tensor = plan.spec.seqs.state_indices[self._group]
