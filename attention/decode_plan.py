# SPDX-License-Identifier: Apache-2.0
"""A step without prefills: its tables, for every KV cache group, at addresses that never change."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np

from ascend_gdn.attention.batch_split import BatchSplit
from ascend_gdn.attention.step_inputs import StepInputs
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata
from ascend_gdn.attention.step_plan import Slot, fill_spec


def fill_decode_slot(slot: Slot, split: BatchSplit, inputs: StepInputs) -> None:
    """Write all tables of a step without prefills into the slot's host buffer.

    Every row is written. A graph may have been captured with more rows than the step has, or for
    speculative requests where the step has none: it finds padding, nothing of an earlier step.
    """
    layout, tables = slot.layout, slot.host_tables
    slot.host[: layout.num_fixed] = layout.padding
    if split.spec is not None:
        fill_spec(tables, split.spec, inputs)
        tables.token_indx[: split.num_tokens] = layout.arange[: split.num_tokens]
        return
    requests, count = split.non_spec, len(split.non_spec)
    np.minimum(layout.arange[: layout.max_seqs + 2], count, out=tables.query_start_loc)
    for group, blocks in enumerate(inputs.first_blocks(requests.rows)):
        tables.state_indices[group, :count] = blocks


@dataclass(eq=False)
class DecodePlan:
    """What all KV cache groups share of a step without prefills: D decodes or S speculative ones.

    The fields of the metadata are those of ``GDNAttentionMetadataBuilder.build`` in
    vllm/v1/attention/backends/gdn_attn.py (0.23.0).
    """

    split: BatchSplit
    slot: Slot
    _first: StepGDNAttentionMetadata | None = None
    """Of the group that asked first, in a speculative step."""

    def metadata(
        self, group: int, num_actual_tokens: int, padded: bool
    ) -> StepGDNAttentionMetadata:
        """Metadata for the layers of ``group``.

        Args:
            group: KV cache group of GDN layers.
            num_actual_tokens: Tokens of the step, with those that the runner padded it by.
            padded: Give every tensor a row for each of these, as full graphs expect.
        """
        tables, views, spec = self.slot.device_tables, self.slot.views, self.split.spec
        requests = self.split.non_spec if spec is None else spec
        rows = min(num_actual_tokens, self.slot.layout.max_seqs) if padded else len(requests)
        if spec is None:
            seqs = views.of(rows)
            return StepGDNAttentionMetadata(
                num_prefills=0,
                num_prefill_tokens=0,
                num_decodes=len(requests),
                num_decode_tokens=self.split.num_tokens,
                num_spec_decodes=0,
                num_spec_decode_tokens=0,
                num_actual_tokens=num_actual_tokens,
                non_spec_query_start_loc=seqs.query_start_loc,
                non_spec_state_indices_tensor=seqs.state_indices[group],
            )
        spec_seqs = views.of_spec(rows)
        if self._first is None:
            self._first = StepGDNAttentionMetadata(
                num_prefills=0,
                num_prefill_tokens=0,
                num_decodes=0,
                num_decode_tokens=0,
                num_spec_decodes=len(requests),
                num_spec_decode_tokens=self.split.num_tokens,
                num_actual_tokens=num_actual_tokens,
                spec_query_start_loc=spec_seqs.query_start_loc,
                spec_sequence_masks=tables.spec_sequence_masks[:rows],
                spec_token_indx=tables.token_indx[: self.split.num_tokens],
                non_spec_token_indx=tables.token_indx[:0],
                num_accepted_tokens=spec_seqs.num_accepted_tokens,
            )
        metadata = copy(self._first)
        metadata.spec_state_indices_tensor = spec_seqs.state_indices[group]
        return metadata
