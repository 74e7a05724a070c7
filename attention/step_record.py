# SPDX-License-Identifier: Apache-2.0
"""What a step was planned from, in plain numbers: enough to plan it again, elsewhere."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ascend_gdn.attention.table_layout import TableLayout

if TYPE_CHECKING:
    import torch
    from vllm.v1.attention.backend import CommonAttentionMetadata

    from ascend_gdn.attention.step_inputs import StepInputs


@dataclass(frozen=True)
class StepRecord:
    """A step's batch, a row a request, as vLLM's runner had it on the host. No text, no tokens."""

    layout: TableLayout
    """Of the slot that the step was planned in."""
    query_start_loc: list[int]
    """[R + 1]"""
    seq_lens: list[int]
    """[R], tokens of this step included."""
    blocks: list[list[list[int]]]
    """A KV cache group each: [R] rows of the block table, as far as they are read."""
    state_columns: list[int]
    """[R]: the column of each request's running state."""
    num_accepted_tokens: list[int] | None = None
    """[R]; None without speculative decoding."""
    draft_tokens: list[int] | None = None
    """[R]; None in a step without drafts."""

    @classmethod
    def of(
        cls,
        layout: TableLayout,
        common: CommonAttentionMetadata,
        draft_tokens: torch.Tensor | None,
        inputs: StepInputs,
    ) -> StepRecord:
        """What the builder of a step that is not idle was given."""
        assert inputs.block_tables is not None and common.seq_lens_cpu_upper_bound is not None
        rows, accepted = common.num_reqs, inputs.num_accepted_tokens
        columns = np.zeros(rows, np.int64)
        if inputs.state_columns is not None:  # rows that pad a graph have none
            columns[: len(inputs.state_columns)] = inputs.state_columns
        read = columns.tolist(), layout.num_spec + 1
        return cls(
            layout=layout,
            query_start_loc=common.query_start_loc_cpu.tolist(),
            seq_lens=common.seq_lens_cpu_upper_bound.tolist(),
            blocks=[
                [table[row, : column + read[1]].tolist() for row, column in enumerate(read[0])]
                for table in inputs.block_tables.tables
            ],
            state_columns=read[0],
            num_accepted_tokens=None if accepted is None else accepted[:rows].tolist(),
            draft_tokens=None if draft_tokens is None else draft_tokens.tolist(),
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> StepRecord:
        """Raises ``ValueError`` if it is not what ``to_json`` writes."""
        names = {field.name for field in fields(cls)}
        try:
            values: dict[str, Any] = json.loads(text)
            values = {name: value for name, value in values.items() if name in names}
            return cls(**values | {"layout": TableLayout(**values["layout"])})
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"got something else ({error}), expected the JSON of a step: "
                f"{', '.join(sorted(names))}"
            ) from error
