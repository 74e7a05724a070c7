# SPDX-License-Identifier: Apache-2.0
"""The same actions as rules of a hypothesis state machine, which shrinks what it finds."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from .drive import LENGTHS
from .model import Config
from .stand_ins import one_rank
from .world import Parts, World

lengths = st.sampled_from(LENGTHS) | st.integers(1, 300)
places = st.integers(0, 7)
tokens = st.integers(0, 5) | lengths
wanted = st.lists(st.tuples(tokens, st.integers(1, 4)).map(list), max_size=8)


@st.composite
def configs(draw: Any) -> Config:
    common = {
        "max_seqs": draw(st.integers(1, 6)),
        "max_tokens": draw(st.sampled_from([32, 200, 2600])),
        "groups": draw(st.integers(1, 3)),
        "slots": draw(st.sampled_from(["host", "device", "kernel"])),
    }
    ranks = draw(st.sampled_from([1, 1, 1, 1, 2, 3]))
    if ranks > 1:
        return Config(ranks=ranks, rank=draw(st.integers(0, ranks - 1)), **common)
    return Config(
        num_spec=draw(st.integers(0, 3)),
        asynchronous=draw(st.booleans()),
        block_size=draw(st.sampled_from([0, 16, 64])),
        full_graph=draw(st.booleans()),
        **common,
    )


class Machine(RuleBasedStateMachine):
    """Steps of one worker."""

    parts: Parts | None = None

    def __init__(self) -> None:
        super().__init__()
        self.patch = one_rank()
        self.patch.__enter__()

    def teardown(self) -> None:
        self.patch.__exit__(None, None, None)

    @initialize(config=configs(), prompts=st.lists(lengths, min_size=1, max_size=4))
    def start(self, config: Config, prompts: list[int]) -> None:
        self.world = World(config, self.parts)
        for prompt in prompts:
            self.do("arrive", prompt)

    def do(self, *action: Any) -> None:
        try:
            self.world.do(action)
        except Exception as error:
            about = f"{error}\nFor tests/fuzz/corpus.py:\n{self.world.as_python()}"
            raise AssertionError(about) from error

    @rule(prompt=lengths)
    def arrive(self, prompt: int) -> None:
        self.do("arrive", prompt)

    @rule(which=places)
    def abort(self, which: int) -> None:
        self.do("abort", which)

    @rule(which=places, at_once=st.booleans())
    def preempt(self, which: int, at_once: bool) -> None:
        self.do("preempt", which, at_once)

    @rule(wanted=wanted, behind=st.booleans(), early=st.booleans())
    def step(self, wanted: list[list[int]], behind: bool, early: bool) -> None:
        self.do("step", wanted, behind, early)

    @rule(count=st.integers(1, 4), kept=st.integers(1, 4), early=st.booleans())
    def all_go_on(self, count: int, kept: int, early: bool) -> None:
        """So that requests get far."""
        wanted = []
        for request in self.world.requests:
            left = request.known - request.computed
            wanted.append([count if request.sampled else left, kept])
        self.do("step", wanted, False, early)

    @rule(rows=st.lists(st.integers(0, 8), max_size=6), earlier=st.sampled_from([0, 9]),
          capture=st.booleans())  # fmt: skip
    def dummy(self, rows: list[int], earlier: int, capture: bool) -> None:
        self.do("dummy", rows, earlier, capture)

    @rule(sequences=st.booleans())
    def over(self, sequences: bool) -> None:
        self.do("over", sequences)

    @rule()
    def renew(self) -> None:
        self.do("renew")
