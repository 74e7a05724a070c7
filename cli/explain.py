# SPDX-License-Identifier: Apache-2.0
"""How a step is planned, for people: its requests, their tokens, the tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ascend_gdn.attention.batch_split import BatchSplit, split_batch
from ascend_gdn.attention.block_tables import BlockTables
from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.attention.pool import Slot
from ascend_gdn.attention.reference_plan import ReferencePlan
from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.attention.step import GDNSteps
from ascend_gdn.attention.step_inputs import StepInputs
from ascend_gdn.attention.step_record import StepRecord
from ascend_gdn.attention.table_layout import TABLES

_KINDS = {"verifies drafts": "magenta", "decodes": "green", "prefills": "blue"}
_SHOWN = 8
"""Rows of a table that are printed."""
_WIDTH = 64
"""Columns of the picture."""


def plan(record: StepRecord) -> tuple[Slot, BatchSplit, int]:
    """The slot, the split and the bytes sent of the step, planned on the host as a worker does."""
    layout = replace(record.layout, has_prefills=True)
    rows = max(layout.max_seqs * (layout.num_spec + 1), len(record.seq_lens))
    decode_rows = rows if record.layout.has_prefills else record.layout.max_seqs
    accepted = record.num_accepted_tokens
    inputs = StepInputs(
        BlockTables([_as_table(group) for group in record.blocks]),
        None if accepted is None else np.array(accepted),
        np.array(record.state_columns, np.int64),
    )
    device = torch.device("cpu")
    steps = GDNSteps(layout, device, lambda idle: inputs, GDNStats(), decode_rows=decode_rows)
    drafts = record.draft_tokens
    split = split_batch(
        np.array(record.query_start_loc, np.int32),
        np.array(record.seq_lens, np.int32),
        None if drafts is None else np.array(drafts, np.int32),
        inputs.num_accepted_tokens,
    )
    with steps.open() as step:
        step.plan(split, GDNChunkedPrefillMetadata)
        return step.slot, split, 4 * step._used_elements(split)


def _as_table(rows: list[list[int]]) -> np.ndarray:
    table = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, blocks in enumerate(rows):
        table[row, : len(blocks)] = blocks
    return table


def explain_record(record: StepRecord, console: Console | None = None) -> int:
    """Print all of it; returns 1 if the plan is not what a slow one comes to, else 0."""
    console = console or Console()
    slot, split, sent = plan(record)
    reference = ReferencePlan(replace(record, layout=slot.layout))
    kinds = {row: kind for kind, rows in (
        ("verifies drafts", reference.spec),
        ("decodes", reference.decodes),
        ("prefills", reference.prefills),
    ) for row in rows}  # fmt: skip
    console.print(_requests(record, reference, kinds))
    console.print(_picture(reference, kinds))
    console.print(_tables(slot, reference))
    wrong = [
        name
        for name, expected in reference.tables.items()
        if slot.device_tables[name][: len(expected)].tolist() != expected
    ]
    console.print(
        f"{len(split.non_spec)} requests decode or prefill, "
        f"{0 if split.spec is None else len(split.spec)} verify drafts; {slot.layout.num_groups} "
        f"KV cache groups; one copy of {sent} bytes, of {4 * slot.layout.num_elements}."
    )
    if wrong:
        console.print(f"[red]Not what a plan made slowly comes to: {', '.join(wrong)}.")
        return 1
    console.print("A plan made slowly comes to the same tables.")
    return 0


def _requests(record: StepRecord, reference: ReferencePlan, kinds: dict[int, str]) -> Table:
    table = Table(title="Requests, in the runner's order")
    for name in ("row", "tokens", "computed", "drafts", "kept", "", "state block"):
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    drafts, kept = record.draft_tokens, record.num_accepted_tokens
    for row, length in enumerate(reference.lengths):
        if row == 2 * _SHOWN and len(reference.lengths) > 2 * _SHOWN + 1:
            table.add_row("...", f"{len(reference.lengths) - row} more", *[""] * 5)
            break
        kind = kinds.get(row, "left out: no tokens")
        column = record.state_columns[row]
        table.add_row(
            str(row),
            str(length),
            str(record.seq_lens[row] - length),
            "" if drafts is None or drafts[row] < 0 else str(drafts[row]),
            "" if kept is None else str(kept[row]),
            Text(kind, _KINDS.get(kind, "")),
            ", ".join(str(group[row][column]) for group in record.blocks[:3])
            + (", ..." if len(record.blocks) > 3 else ""),
        )
    return table


def _picture(reference: ReferencePlan, kinds: dict[int, str]) -> Text:
    """A bar of the step's tokens, and which kind of request each is of."""
    total = sum(reference.lengths)
    picture, done, drawn = Text("tokens "), 0, 0
    for row, length in enumerate(reference.lengths):
        done += length
        columns = round(done * _WIDTH / max(total, 1)) - drawn
        drawn += columns
        picture.append("▇" * columns, _KINDS.get(kinds.get(row, ""), ""))
    picture.append(f" {total}\n       ")
    for kind, colour in _KINDS.items():
        picture.append(f"▇ {kind}  ", colour)
    return picture


def _tables(slot: Slot, reference: ReferencePlan) -> Table:
    table = Table(title="Tables, in the order of the buffer")
    for name in ("table", "shape", "read by", "first rows"):
        table.add_column(name, overflow="fold", no_wrap=name == "table")
    for each in TABLES:
        if each.name not in reference.tables:
            continue
        values = slot.device_tables[each.name]
        used = len(reference.tables[each.name]) if each.name == "token_indx" else len(values)
        rows = values[: min(used, _SHOWN)]
        if values.dim() > 1 and each.name.endswith("state_indices"):
            rows = values[:, :_SHOWN]
        text = str(rows.tolist())
        table.add_row(each.name, "x".join(map(str, values.shape)), each.readers, text)
    return table
