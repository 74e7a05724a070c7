# SPDX-License-Identifier: Apache-2.0
"""Steps after which states are left behind, on any device, and what should come of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ascend_gdn.fla.state_copies import StateLayout

GROUPS = 3


@dataclass
class Step:
    """A batch after a step that verified drafts; [requests] each, int32."""

    block_size: int
    tables: list[np.ndarray]
    """A group each: [requests, blocks] int32."""
    accepted: np.ndarray
    running: np.ndarray
    scheduled: np.ndarray
    computed: np.ndarray
    drafts: np.ndarray

    @staticmethod
    def draw(random: np.random.Generator, requests: int, block_size: int, num_spec: int) -> Step:
        drafts = random.integers(0, num_spec + 1, requests)
        # More tokens only without drafts.
        scheduled = np.where(drafts > 0, drafts + 1, random.integers(1, 2 * block_size, requests))
        all_kept = random.integers(0, 2, requests) > 0
        accepted = np.where(all_kept, drafts + 1, random.integers(1, drafts + 2))
        # Near the end of a block, where there is something to do. Windows move within theirs if the
        # last draft fills it.
        before_the_end = np.where(all_kept, drafts, random.integers(-1, drafts + 1))
        ends = block_size * random.integers(2, 4, requests)
        computed = ends - before_the_end - scheduled + drafts
        running = (computed + scheduled - 1) // block_size
        width = int(running.max()) + num_spec + 1
        free = [1 + random.permutation(requests * width) for _ in range(GROUPS)]
        return Step(
            block_size,
            [blocks.reshape(requests, width).astype(np.int32) for blocks in free],
            *(
                values.astype(np.int32)
                for values in (accepted, running, scheduled, computed, drafts)
            ),
        )

    @property
    def num_blocks(self) -> int:
        return self.tables[0].size + 1


@dataclass
class States:
    """Of two layers a group: windows [blocks, rows, columns], recurrent states [blocks, …]."""

    windows: list[torch.Tensor]
    recurrent: list[torch.Tensor]

    @staticmethod
    def draw(
        num_blocks: int, rows: int, columns: int, words: int, dtype: torch.dtype, dim_first: bool
    ) -> States:
        """As a cache has them: both states of a block in one page, and something behind them."""

        def window() -> torch.Tensor:
            page = torch.randn(num_blocks, rows * columns + 6).to(dtype)[:, : rows * columns]
            if dim_first:
                return page.unflatten(1, (columns, rows)).transpose(1, 2)
            return page.unflatten(1, (rows, columns))

        def state() -> torch.Tensor:
            return torch.randn(num_blocks, words + 10)[:, :words].unflatten(1, (1, words))

        layers = range(2 * GROUPS)
        return States([window() for _ in layers], [state() for _ in layers])

    def to(self, device: torch.device) -> States:
        def moved(state: torch.Tensor) -> torch.Tensor:
            return torch.empty_strided(
                state.shape, state.stride(), dtype=state.dtype, device=device
            ).copy_(state)

        return States([moved(s) for s in self.windows], [moved(s) for s in self.recurrent])


def leave_states(step: Step, states: States, device: torch.device) -> np.ndarray:
    """Run the kernel on ``states``, which are there; returns the next accepted counts."""
    counts = [
        torch.from_numpy(values).to(device)
        for values in (step.accepted, step.running, step.scheduled, step.computed, step.drafts)
    ]
    tables = [torch.from_numpy(table).to(device) for table in step.tables]
    pairs = list(zip(states.windows, states.recurrent, strict=True))
    addresses = [[state.data_ptr() for state in pair] for pair in pairs]
    groups = [[layer // 2] * 2 for layer in range(len(pairs))]
    next_accepted = torch.full_like(counts[0], -7)
    StateLayout.of(states.windows, states.recurrent).launch(
        len(step.accepted),
        len(pairs),
        step.block_size,
        tables[0].stride(0),
        (
            *counts,
            torch.tensor([table.data_ptr() for table in tables], device=device),
            torch.tensor(addresses, device=device),
            torch.tensor(groups, dtype=torch.int32, device=device),
            next_accepted,
        ),
    )
    return next_accepted.cpu().numpy()


def reference(step: Step, states: States) -> tuple[States, np.ndarray, int]:
    """What should come of them, from copies; and how many windows move within their block."""
    states, next_accepted, within = states.to(torch.device("cpu")), step.accepted.copy(), 0
    for request in range(len(step.accepted)):
        sure = int(step.computed[request] + step.scheduled[request] - step.drafts[request])
        ends = [
            (tokens, tokens - sure)
            for tokens in range(sure, sure + int(step.accepted[request]))
            if tokens % step.block_size == 0
        ]
        if not ends:
            continue
        tokens, later = ends[-1]
        running, target = int(step.running[request]), tokens // step.block_size - 1
        if running == target:
            next_accepted[request] = 1
            within += later > 0
        for layer, (windows, recurrent) in enumerate(
            zip(states.windows, states.recurrent, strict=True)
        ):
            row = step.tables[layer // 2][request]
            kept = windows[row[running], later:].clone()
            windows[row[target], : len(kept)] = kept
            recurrent[row[target]] = recurrent[row[running + later]].clone()
    return states, next_accepted, within


def assert_equal(states: States, expected: States) -> None:
    for found, wanted in zip(
        states.windows + states.recurrent, expected.windows + expected.recurrent, strict=True
    ):
        assert torch.equal(found.cpu(), wanted)
