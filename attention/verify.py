# SPDX-License-Identifier: Apache-2.0
"""Verify mode: what reached the device is compared with a plan made slowly, step by step."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.pool import Slot
from ascend_gdn.attention.reference_plan import ReferencePlan
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata
from ascend_gdn.attention.step_record import StepRecord
from ascend_gdn.attention.table_layout import CHUNK_SIZE
from ascend_gdn.attention.verified_step import VerifiedStep

_SHARED = {
    "non_spec_query_start_loc": "query_start_loc",
    "has_initial_state": "has_initial_state",
    "spec_query_start_loc": "spec_query_start_loc",
    "spec_sequence_masks": "spec_sequence_masks",
    "num_accepted_tokens": "num_accepted_tokens",
    "chunk_indices": "chunk_indices_chunk64",
    "chunk_offsets": "chunk_offsets_chunk64",
    "prefill_query_start_loc": "cu_seqlens",
}
"""Fields of vLLM's metadata that are first rows of a table."""
_OF_GROUP = {
    "non_spec_state_indices_tensor": "state_indices",
    "prefill_state_indices": "prefill_state_indices",
    "spec_state_indices_tensor": "spec_state_indices",
}
"""Those of a table that each KV cache group has its own of."""


class StepVerifier:
    """Checks each step that was planned, before the model runs.

    Args:
        folder: Where the record of a step goes that is found wrong.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(
        self, record: StepRecord, slot: Slot, groups: list[StepGDNAttentionMetadata]
    ) -> VerifiedStep:
        """Compare every table of the step on the device, and what each KV cache group is given.

        Raises:
            GDNContractError: The first difference. The step's record is written to the folder.
        """
        plan = ReferencePlan(record)
        for name, expected in plan.tables.items():
            found = slot.device_tables[name][: len(expected)].tolist()
            self._compare(record, name, found, expected)
        for group, metadata in enumerate(groups):
            self._check_group(record, plan, group, metadata)
            if plan.prefills:
                self._check_meta(record, plan, group, metadata, slot)
        return VerifiedStep(slot, slot.device_buffer[: slot.layout.num_fixed].clone())

    def _check_group(
        self, record: StepRecord, plan: ReferencePlan, group: int, metadata: Any
    ) -> None:
        where, tables, counts = f"group {group}: ", plan.tables, plan.counts
        fields = vars(metadata)
        for name, count in counts.items():
            self._compare(record, where + name, fields[name], count)
        own = {field: tables[table] for field, table in _SHARED.items() if table in tables}
        own |= {
            field: tables[table][group] for field, table in _OF_GROUP.items() if table in tables
        }
        if plan.spec:
            others = counts["num_prefill_tokens"]
            own["non_spec_token_indx"] = tables["token_indx"][:others]
            own["spec_token_indx"] = tables["token_indx"][others:]
        needed = self._needed_rows(plan)
        for field, expected in own.items():
            tensor = fields[field]
            found = [] if tensor is None else tensor.tolist()
            if len(found) < needed[field]:
                self._refuse(record, where + field, f"{len(found)} rows", needed[field])
            self._compare(record, where + field, found, expected[: len(found)])

    @staticmethod
    def _needed_rows(plan: ReferencePlan) -> dict[str, int]:
        """Of each field; a graph may have it padded with more."""
        spec, others, prefills = len(plan.spec), len(plan.others), len(plan.prefills)
        return {
            "non_spec_query_start_loc": others + (others > 0),
            "has_initial_state": others if prefills else 0,
            "spec_query_start_loc": spec + (spec > 0),
            "spec_sequence_masks": spec,
            "num_accepted_tokens": spec,
            "chunk_indices": sum(-(-plan.lengths[row] // CHUNK_SIZE) for row in plan.prefills),
            "chunk_offsets": prefills + (prefills > 0),
            "prefill_query_start_loc": prefills + (prefills > 0),
            "non_spec_state_indices_tensor": others,
            "prefill_state_indices": prefills,
            "spec_state_indices_tensor": spec,
            "non_spec_token_indx": plan.counts["num_prefill_tokens"],
            "spec_token_indx": plan.counts["num_spec_decode_tokens"],
        }

    def _check_meta(
        self, record: StepRecord, plan: ReferencePlan, group: int, metadata: Any, slot: Slot
    ) -> None:
        where, meta = f"group {group}: non_spec_prefill_fallback_meta", (
            metadata.non_spec_prefill_fallback_meta
        )  # fmt: skip
        seqs, decodes = len(plan.prefills), len(plan.decodes)
        self._compare(
            record,
            where,
            [meta.generation, meta.group, meta.num_decodes, meta.chunk.num_seqs],
            [slot.generation, group, decodes, seqs],
        )
        host = meta.chunk.cu_seqlens_cpu.tolist()
        self._compare(
            record, where + ".cu_seqlens_cpu", host, plan.tables["cu_seqlens"][: seqs + 1]
        )
        going_on = sum(plan.tables["has_initial_state"][decodes : decodes + seqs])
        self._compare(
            record, f"group {group}: num_initial_states", metadata.num_initial_states, going_on
        )

    def _compare(self, record: StepRecord, field: str, found: Any, expected: Any) -> None:
        if found != expected:
            self._refuse(record, *_first_difference(field, found, expected))

    def _refuse(self, record: StepRecord, field: str, found: Any, expected: Any) -> NoReturn:
        raise GDNContractError(
            layer="verify mode",
            field=field,
            found=found,
            expected=expected,
            cause=f"a fault in ascend-gdn, or in what it builds on. {self._dump(record)}",
        )

    def _dump(self, record: StepRecord) -> str:
        """Write the record, whole or not at all; returns what to do with it."""
        path = self._folder / f"gdn-step-{os.getpid()}.json"
        part = path.with_suffix(".part")
        try:
            part.write_text(record.to_json())
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            return f"The step could not be written to {path}: {error}"
        return f"Plan the step again: ascend-gdn explain --replay {path}"


def _first_difference(field: str, found: Any, expected: Any) -> tuple[str, Any, Any]:
    """The place of the first difference in nested lists, and what is there."""
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for place, (left, right) in enumerate(zip(found, expected, strict=True)):
            if left != right:
                return _first_difference(f"{field}[{place}]", left, right)
    return field, found, expected
