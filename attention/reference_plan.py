# SPDX-License-Identifier: Apache-2.0
"""A step's tables, planned slowly: one request at a time, from the definitions alone.

Verify mode compares the tables that reached the device with these. Nothing that plans a step is
used here but the sizes of ``TableLayout``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ascend_gdn.attention.step_record import StepRecord
from ascend_gdn.attention.table_layout import CHUNK_SIZE, LARGE_BLOCK_SIZE, max_rows

Values = list[Any]
"""A table, or a row of one."""
NULL_BLOCK = 0


class ReferencePlan:
    """What a step's tables must be.

    Args:
        record: Of a step that is not idle and not split among ranks.
    """

    tables: dict[str, Values]
    """Each by its name in ``TABLES``, with its padding; ``token_indx`` as far as the step goes."""
    counts: dict[str, int]
    """Of requests and tokens, by their names in vLLM's metadata."""

    def __init__(self, record: StepRecord) -> None:
        self._record = record
        starts = record.query_start_loc
        self.lengths = [end - start for start, end in pairwise(starts)]
        self.spec = [row for row in self._verifying() if self.lengths[row]]
        others = [row for row, length in enumerate(self.lengths) if length]
        self.others = [row for row in others if row not in self.spec]
        self.decodes = [] if self.spec else self._leading_decodes()
        self.prefills = self.others[len(self.decodes) :]
        spec_tokens = sum(self.lengths[row] for row in self.spec)
        self.counts = {
            "num_prefills": len(self.prefills),
            "num_prefill_tokens": sum(self.lengths[row] for row in self.prefills),
            "num_decodes": len(self.decodes),
            "num_decode_tokens": len(self.decodes),
            "num_spec_decodes": len(self.spec),
            "num_spec_decode_tokens": spec_tokens,
        }
        self.tables = self._chunk_tables() | self._request_tables() | self._spec_tables()

    def _verifying(self) -> list[int]:
        """Rows that verify drafts, or whose state is that of a later token than their first."""
        record, rows = self._record, range(len(self.lengths))
        drafts, kept = record.draft_tokens, record.num_accepted_tokens
        found = []
        for row in rows:
            drafting = drafts is not None and max(drafts) > 0 and drafts[row] >= 0
            behind = kept is not None and self.lengths[row] == 1 and kept[row] > 1
            if drafting or behind:
                found.append(row)
        return found

    def _context(self, row: int) -> int:
        return self._record.seq_lens[row] - self.lengths[row]

    def _leading_decodes(self) -> list[int]:
        found: list[int] = []
        for row in self.others:
            if self.lengths[row] > 1 or self._context(row) == 0:
                break
            found.append(row)
        return found

    def _block(self, group: int, row: int, behind: int = 0) -> int:
        return self._record.blocks[group][row][self._record.state_columns[row] + behind]

    def _chunk_tables(self) -> dict[str, Values]:
        layout = self._record.layout
        if not layout.has_prefills:
            return {}
        lengths = [self.lengths[row] for row in self.prefills]
        chunks = [-(-length // CHUNK_SIZE) for length in lengths]
        update = _offsets([count + 1 for count in chunks])
        tables = {}
        for name, size in (
            ("chunk_indices_chunk64", CHUNK_SIZE),
            ("chunk_indices_large_block", LARGE_BLOCK_SIZE),
            ("block_indices_cumsum", layout.cumsum_block),
        ):
            rows = [
                [sequence, block]
                for sequence, length in enumerate(lengths)
                for block in range(-(-length // size))
            ]
            most = max_rows(layout.prefills, layout.max_tokens, size)
            tables[name] = _padded(rows, most, [layout.max_seqs, 0])
        final = [end - 1 for end in update[1:]]
        tables["final_chunk_indices_chunk64"] = _padded(final, layout.prefills, 0)
        for name, offsets in (
            ("chunk_offsets_chunk64", _offsets(chunks)),
            ("update_chunk_offsets_chunk64", update),
            ("cu_seqlens", _offsets(lengths)),
        ):
            tables[name] = _padded(offsets, layout.prefills + 2, offsets[-1])
        return tables

    def _request_tables(self) -> dict[str, Values]:
        """Of decodes and prefills."""
        layout, groups = self._record.layout, range(self._record.layout.num_groups)
        starts = _offsets([self.lengths[row] for row in self.others])
        goes_on = [self._context(row) > 0 for row in self.others]
        blocks, prefills = (
            [[self._block(group, row) for row in rows] for group in groups]
            for rows in (self.others, self.prefills)
        )
        return {
            "query_start_loc": _padded(starts, layout.max_seqs + 2, starts[-1]),
            "has_initial_state": _padded(goes_on[: layout.prefills], layout.prefills, False),
            "state_indices": [_padded(own, layout.max_seqs, NULL_BLOCK) for own in blocks],
            "prefill_state_indices": [
                _padded(own, layout.prefills, NULL_BLOCK) for own in prefills
            ],
        }

    def _spec_tables(self) -> dict[str, Values]:
        layout, accepted = self._record.layout, self._record.num_accepted_tokens
        if layout.num_spec == 0:
            return {}
        most, width = layout.verifying, layout.num_spec + 1
        lengths = [self.lengths[row] for row in self.spec]
        starts = _offsets(lengths)
        kept = [] if accepted is None else [accepted[row] for row in self.spec]
        verifying = self._verifying()
        mask = [row in verifying for row in range(len(self.lengths))]
        if not self.spec or not self.prefills:
            mask = [True] * len(self.spec)
        blocks = [
            [[self._block(group, row, draft) for draft in range(width)] for row in self.spec]
            for group in range(layout.num_groups)
        ]
        return {
            "spec_query_start_loc": _padded(starts, most + 2, starts[-1]),
            "spec_actual_seq_lengths": _padded([0, *lengths], most + 1, 0),
            "num_accepted_tokens": _padded(kept, most, 1),
            "spec_sequence_masks": _padded(mask, most, False),
            "spec_state_indices": [_padded(own, most, [NULL_BLOCK] * width) for own in blocks],
            "token_indx": self._tokens(self.others) + self._tokens(self.spec) if self.spec else [],
        }

    def _tokens(self, rows: list[int]) -> list[int]:
        starts = self._record.query_start_loc
        return [token for row in rows for token in range(starts[row], starts[row + 1])]


def _offsets(counts: list[int]) -> list[int]:
    found = [0]
    for count in counts:
        found.append(found[-1] + count)
    return found


def _padded(rows: Values, most: int, padding: object) -> Values:
    return rows + [padding] * (most - len(rows))
