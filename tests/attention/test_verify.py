# SPDX-License-Identifier: Apache-2.0
"""Verify mode: silent where all is right, and it names what is wrong."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ascend_gdn.attention.chunk_plan import TableRows
from ascend_gdn.attention.cpu import CPUChunkedPrefillMetadata
from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.pool import Slot
from ascend_gdn.attention.step import GDNStep
from ascend_gdn.attention.step_record import StepRecord
from ascend_gdn.attention.verified_step import VerifiedStep
from ascend_gdn.attention.verify import StepVerifier
from both_sides.workloads import DECODE_WORKLOADS, WORKLOADS, Ours, Workload

MIXED = Workload("mixed", [1, 1, 70, 130, 5], [9, 8, 64, 0, 12])
MTP = Workload("MTP", [4, 2, 1, 70, 3], [9, 5, 7, 64, 0], [3, 1, 0, -1, -1], [2, 1, 3, 1, 1])
ONLY_MTP = Workload("only MTP", [4, 4], [9, 8], [3, 3], [2, 4])


def verified(workload: Workload, folder: Path, ours_cls: type[Ours] = Ours) -> list[Any]:
    """The metadata of a step of ``workload``, the second after another one in the same slots."""
    ours = ours_cls(workload)
    ours.steps.verifier = StepVerifier(folder)
    for _ in range(3):  # the slots are not fresh
        groups = ours.step(ours.batch.common_metadata())
    return groups


@pytest.mark.parametrize(
    "workload",
    [each for each in WORKLOADS + DECODE_WORKLOADS if each.num_tokens < 100_000]
    + [MIXED, MTP, ONLY_MTP, replace(MTP, state_block_size=64), replace(MIXED, groups=12)],
    ids=lambda each: each.name,
)
def test_silent_where_all_is_right(workload, tmp_path):
    groups = verified(workload, tmp_path)
    assert all(isinstance(group.verified, VerifiedStep) for group in groups)
    assert list(tmp_path.iterdir()) == []


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_silent_on_random_batches(data, tmp_path):
    rows = data.draw(st.integers(1, 12))
    draw = lambda low, high: [data.draw(st.integers(low, high)) for _ in range(rows)]  # noqa: E731
    num_spec = data.draw(st.sampled_from([0, 0, 1, 3]))
    contexts, drafts, accepted = draw(0, 200), [], []
    lengths = draw(1, 200)
    if num_spec:
        # vLLM gives those that draft -1 to num_spec drafts, and a token more than drafts.
        drafts = [
            count if context else -1
            for count, context in zip(draw(-1, num_spec), contexts, strict=True)
        ]
        drafts[0] = num_spec
        contexts[0] = 9
        lengths = [
            count + 1 if count >= 0 else length
            for count, length in zip(drafts, lengths, strict=True)
        ]
        accepted = draw(1, num_spec + 1)
    else:
        ones = data.draw(st.integers(0, rows))
        lengths = [1] * ones + lengths[ones:]
    verified(
        Workload(
            "random", lengths, contexts, drafts, accepted,
            state_block_size=data.draw(st.sampled_from([0, 64])),
            full_graph=data.draw(st.booleans()), groups=data.draw(st.integers(1, 4)),
        ),
        tmp_path,
    )  # fmt: skip


class Broken(Ours):
    """Breaks the tables on their way to the device, once they are filled."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        for pool in (self.steps.pool, self.steps.decode_pool):
            publish = pool.publish

            def broken(slot: Slot, *arguments: int, send=publish) -> None:
                send(slot, *arguments)
                self.break_(slot.device_tables)

            pool.publish = broken

    def break_(self, tables: dict[str, torch.Tensor]) -> None:
        raise NotImplementedError


class SwappedGroups(Ours):
    def step(self, common):
        self.builders[0]._group, self.builders[1]._group = 1, 0
        verifier, self.steps.verifier = self.steps.verifier, None
        found = super().step(common)
        self.steps.verifier = verifier
        found[0].verified = None
        record = StepRecord.of(
            found[0].non_spec_prefill_fallback_meta.slot.layout, common[0],
            self.batch.extra.get("num_decode_draft_tokens_cpu"), self._inputs(False),
        )  # fmt: skip
        verifier.check(record, found[0].non_spec_prefill_fallback_meta.slot, found)
        return found


class LostChunk(CPUChunkedPrefillMetadata):
    def __post_init__(self) -> None:
        """Nobody counts."""

    @classmethod
    def over(cls, slot: Slot, seqs: int, rows: TableRows):
        return super().over(slot, seqs, rows._replace(chunk64=rows.chunk64 - 1))


class LosingChunk(Ours):
    def step(self, common):
        for builder in self.builders:
            builder.chunk_cls = LostChunk
        return super().step(common)


class StaleSlot(Ours):
    """The last step's tables are sent again."""

    def step(self, common):
        plan = GDNStep.plan

        def stale(step: GDNStep, split, chunk_cls) -> None:
            plan(step, split, chunk_cls)
            if self.last is not None:
                step.slot.device_buffer.copy_(self.last)
            self.last = step.slot.device_buffer.clone()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GDNStep, "plan", stale)
            found = super().step(common)
        self.batch.block_tables[0] += 1
        return found

    last: torch.Tensor | None = None


class WrongGeneration(Ours):
    def step(self, common):
        plan = GDNStep.plan

        def early(step: GDNStep, split, chunk_cls) -> None:
            plan(step, split, chunk_cls)
            step.generation -= 1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GDNStep, "plan", early)
            return super().step(common)


def add(table: str, place: tuple[int, ...], value: int):
    def change(tables: dict[str, torch.Tensor]) -> None:
        tables[table][place] += value

    return change


def put(table: str, place: tuple[int, ...], value: object):
    def change(tables: dict[str, torch.Tensor]) -> None:
        tables[table][place] = value

    return change


def flip_tokens(tables: dict[str, torch.Tensor]) -> None:
    tables["token_indx"][:2] = tables["token_indx"][:2].flip(0)


def tables_broken(change, workload: Workload, named: str) -> tuple[type[Ours], Workload, str]:
    broken = type("BrokenTables", (Broken,), {"break_": lambda self, tables: change(tables)})
    return broken, workload, named


FAULTS = {
    "flipped index": tables_broken(
        add("state_indices", (1, 2), 1), MIXED, r"state_indices\[1\]\[2\]"
    ),
    "offset off by one": tables_broken(add("cu_seqlens", (2,), 1), MIXED, r"cu_seqlens\[2\]"),
    "offset of chunks": tables_broken(
        add("chunk_offsets_chunk64", (1,), 1), MIXED, r"chunk_offsets_chunk64\[1\]"
    ),
    "missing null padding": tables_broken(
        put("state_indices", (0, 100), 7), MIXED, r"state_indices\[0\]\[100\]"
    ),
    "missing padding of chunks": tables_broken(
        put("chunk_indices_chunk64", (50, 0), 0), MIXED, r"chunk_indices_chunk64\[50\]\[0\]"
    ),
    "lost accepted count": tables_broken(
        put("num_accepted_tokens", (0,), 1), MTP, r"num_accepted_tokens\[0\]"
    ),
    "initial state": tables_broken(
        put("has_initial_state", (3,), True), MIXED, r"has_initial_state\[3\]"
    ),
    "a draft's block": tables_broken(
        add("spec_state_indices", (2, 1, 3), 1), MTP, r"spec_state_indices\[2\]\[1\]\[3\]"
    ),
    "order of tokens": tables_broken(flip_tokens, MTP, r"token_indx\[0\]"),
    "mask of drafts": tables_broken(
        put("spec_sequence_masks", (1,), False), MTP, r"spec_sequence_masks\[1\]"
    ),
    "start of a draft": tables_broken(
        add("spec_query_start_loc", (1,), 1), ONLY_MTP, r"spec_query_start_loc\[1\]"
    ),
    "stale slot": (StaleSlot, MIXED, r"state_indices\[0\]\[0\]"),
    "swapped group": (SwappedGroups, MIXED, r"group 0: non_spec_state_indices_tensor\[0\]"),
    "lost chunk": (LosingChunk, MIXED, "group 0: chunk_indices"),
    "wrong generation": (WrongGeneration, MIXED, r"non_spec_prefill_fallback_meta\[0\]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_named(fault, tmp_path):
    ours_cls, workload, named = FAULTS[fault]
    with pytest.raises(GDNContractError, match=f"at verify mode: (group \\d: )?{named}") as error:
        verified(workload, tmp_path, ours_cls)
    (dump,) = tmp_path.iterdir()
    assert f"explain --replay {dump}" in str(error.value)
    record = StepRecord.from_json(dump.read_text())
    assert record.query_start_loc == [0, *np.cumsum(workload.lengths)]


def test_a_record_that_cannot_be_written_hides_nothing(tmp_path):
    ours_cls, workload, named = FAULTS["flipped index"]
    with pytest.raises(GDNContractError, match=rf"{named}.*could not be written to .*missing"):
        verified(workload, tmp_path / "missing", ours_cls)


def test_nothing_is_left_of_a_record_that_the_disk_has_no_room_for(tmp_path):
    ours_cls, workload, named = FAULTS["flipped index"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
    try:
        with pytest.raises(GDNContractError, match=f"{named}.*could not be written.*too large"):
            verified(workload, tmp_path, ours_cls)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_what_is_no_record_is_refused():
    for text in ("", "[]", "{}", '{"layout": {}}'):
        with pytest.raises(ValueError, match="expected the JSON of a step: blocks, draft_tokens"):
            StepRecord.from_json(text)


def test_padding_that_is_written(tmp_path):
    (first, *_) = verified(MIXED, tmp_path)
    padding = torch.full((3, 2, 4), 5.0)
    with first.verified.watch("a layer", padding):
        pass
    assert (padding == 5).all()
    with (
        pytest.raises(GDNContractError, match="at a layer: core_attn_out: found padded row 1 past"),
        first.verified.watch("a layer", padding),
    ):
        padding[1] = 0
    assert (padding == 5).all()


def test_a_slot_that_is_written_while_its_step_runs(tmp_path):
    (first, *_) = verified(MIXED, tmp_path)
    first.verified.slot.device_buffer[3] += 1
    with (
        pytest.raises(GDNContractError, match="at a layer: StepBufferPool: found other tables"),
        first.verified.watch("a layer", torch.empty(0, 2, 4)),
    ):
        pass
