# SPDX-License-Identifier: Apache-2.0
"""A step as the slow model knows it: its requests, and which of them are what.

Plain Python, one request at a time, separate from the sources on purpose; ``tables.py`` and
``handed_out.py`` say what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NULL_BLOCK = 0
CONV_HISTORY = 3


@dataclass(frozen=True)
class Config:
    """A worker's configuration."""

    max_seqs: int = 4
    max_tokens: int = 200
    groups: int = 2
    """KV cache groups of GDN layers; the second of all groups is attention's."""
    num_spec: int = 0
    asynchronous: bool = False
    block_size: int = 0
    """Tokens a state block with prefix caching; 0 without."""
    full_graph: bool = False
    slots: str = "host"
    """"host": one buffer, as on CPU; "device": a twin that is sent to; "kernel": which makes the
    chunk tables, too."""
    value_heads: int = 32
    ranks: int = 1
    """Of prefill context parallelism, ..."""
    rank: int = 0
    """... and which of them this is."""

    @property
    def decode_rows(self) -> int:
        """Of the slot of steps without prefills; none under context parallelism, as on Ascend."""
        return self.max_seqs * (self.num_spec + 1) if self.ranks == 1 else 0

    @property
    def cumsum_block(self) -> int:
        size = 1
        while size < 2**18 // (self.value_heads * 64):
            size *= 2
        return size


@dataclass
class Row:
    """A request of a step, or padding."""

    tokens: int
    context: int = 0
    drafts: int = -1
    """-1: it verifies none."""
    kept: int = 1
    """Tokens that it kept of its last step."""
    blocks: list[list[int]] = field(default_factory=list)
    """A group each: the block of its running state, and those behind it."""
    whole: int = 0
    """Tokens over all ranks."""


@dataclass
class Step:
    """The rows of a step, and which are what."""

    config: Config
    rows: list[Row]
    num_actual_tokens: int
    dummy: bool = False
    spec: list[Row] = field(default_factory=list)
    decodes: list[Row] = field(default_factory=list)
    prefills: list[Row] = field(default_factory=list)
    shared: list[Row] = field(default_factory=list)
    """Under context parallelism: prefills of all ranks."""

    def __post_init__(self) -> None:
        if self.in_parts:
            self._split_over_ranks()
            return
        speculates = any(row.drafts > 0 for row in self.rows)
        for row in self.rows:
            lost_drafts = row.tokens == 1 and row.kept > 1
            if row.tokens and ((speculates and row.drafts >= 0) or lost_drafts):
                self.spec.append(row)
        for row in self.rows:
            if not row.tokens or self.is_spec(row):
                continue
            decodes = row.tokens == 1 and (row.context > 0 or self.dummy)
            if decodes and not self.prefills and not self.spec:
                self.decodes.append(row)
            else:
                self.prefills.append(row)

    def _split_over_ranks(self) -> None:
        for row in self.rows:
            if row.whole == 1 and row.context > 0 and not self.shared:
                self.decodes.append(row)
            elif row.whole:
                self.shared.append(row)
                if row.tokens:
                    self.prefills.append(row)

    @property
    def in_parts(self) -> bool:
        """Whether ranks share the prompts; each runs its dummy batches by itself."""
        return self.config.ranks > 1 and not self.dummy

    def is_spec(self, row: Row) -> bool:
        return any(row is other for other in self.spec)

    @property
    def non_spec(self) -> list[Row]:
        return self.decodes + self.prefills

    @property
    def tokens(self) -> int:
        return sum(row.tokens for row in self.rows)

    @property
    def in_ring(self) -> bool:
        """Whether it takes a slot of the ring; steps without prefills have one of their own."""
        return bool(self.prefills) or self.config.ranks > 1
