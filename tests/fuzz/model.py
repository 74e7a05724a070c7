# SPDX-License-Identifier: Apache-2.0
"""What a step's tables and metadata must be, written for clarity: one request, one token at a time.

Plain Python, separate from the sources on purpose. Tables are those of attention/table_layout.py,
flat, as lists; what builders hand out is named as in vLLM's ``GDNAttentionMetadata`` (0.23.0).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ascend_gdn.attention.table_layout import CHUNK_SIZE, LARGE_BLOCK_SIZE

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


def offsets(counts: list[int]) -> list[int]:
    result = [0]
    for count in counts:
        result.append(result[-1] + count)
    return result


def blocks_of(length: int, size: int) -> int:
    count = 0
    while count * size < length:
        count += 1
    return count


def block_rows(lengths: list[int], size: int) -> list[tuple[int, int]]:
    return [(seq, b) for seq, length in enumerate(lengths) for b in range(blocks_of(length, size))]


def padded(values: list[Any], size: int, padding: Any) -> list[Any]:
    return values + [padding] * (size - len(values))


def flat(rows: list[Any]) -> list[int]:
    return [value for row in rows for value in row]


def chunk_tables(config: Config, lengths: list[int]) -> dict[str, list[int]]:
    """Those that a kernel can make of the prefills' lengths."""
    seqs, tokens = config.max_seqs, config.max_tokens
    tables = {}
    for name, size in (
        ("chunk_indices_chunk64", CHUNK_SIZE),
        ("chunk_indices_large_block", LARGE_BLOCK_SIZE),
        ("block_indices_cumsum", config.cumsum_block),
    ):
        most = min(seqs, tokens) + (tokens - min(seqs, tokens)) // size
        tables[name] = flat(padded(block_rows(lengths, size), most, (seqs, 0)))
    chunks = [blocks_of(length, CHUNK_SIZE) for length in lengths]
    starts, updates = offsets(chunks), offsets([count + 1 for count in chunks])
    tables["chunk_offsets_chunk64"] = padded(starts, seqs + 2, starts[-1])
    tables["update_chunk_offsets_chunk64"] = padded(updates, seqs + 2, updates[-1])
    tables["final_chunk_indices_chunk64"] = padded([end - 1 for end in updates[1:]], seqs, 0)
    return tables


def state_blocks(config: Config, rows: list[Row], size: int) -> list[int]:
    """[groups, size]: the block of each one's running state."""
    return flat(
        padded([row.blocks[group][0] for row in rows], size, NULL_BLOCK)
        for group in range(config.groups)
    )


def ring_tables(step: Step) -> dict[str, list[int]]:
    """All tables of a step with prefills, padding included, but for ``token_indx``."""
    config, seqs = step.config, step.config.max_seqs
    lengths = [row.tokens for row in step.prefills]
    starts, queries = offsets(lengths), offsets([row.tokens for row in step.non_spec])
    # Ranks that share a prompt are given what comes before their part.
    going_on = [row.context > 0 or step.in_parts for row in step.non_spec]
    return {
        **chunk_tables(config, lengths),
        "cu_seqlens": padded(starts, seqs + 2, starts[-1]),
        "query_start_loc": padded(queries, seqs + 2, queries[-1]),
        "has_initial_state": padded(going_on, seqs, False),
        "state_indices": state_blocks(config, step.non_spec, seqs),
        "prefill_state_indices": state_blocks(config, step.prefills, seqs),
        **spec_tables(step, seqs),
        **(shared_tables(step) if config.ranks > 1 else {}),
    }


def decode_tables(step: Step) -> dict[str, list[int]]:
    """The same of a step without; one token each where nothing speculates."""
    rows, requests = step.config.decode_rows, len(step.decodes)
    return {
        "query_start_loc": padded(list(range(requests)), rows + 2, requests),
        "state_indices": state_blocks(step.config, step.decodes, rows),
        **spec_tables(step, rows),
    }


def spec_tables(step: Step, rows: int) -> dict[str, list[int]]:
    config, spec = step.config, step.spec
    if not config.num_spec:
        return {}
    width, starts = config.num_spec + 1, offsets([row.tokens for row in spec])
    masks = [step.is_spec(row) for row in step.rows] if step.non_spec else [True] * len(spec)
    if not spec:
        masks = []
    return {
        "spec_query_start_loc": padded(starts, rows + 2, starts[-1]),
        "spec_actual_seq_lengths": padded([0] + [row.tokens for row in spec], rows + 1, 0),
        "num_accepted_tokens": padded([row.kept for row in spec], rows, 1),
        "spec_sequence_masks": padded(masks, rows, False),
        "spec_state_indices": flat(
            padded(flat(row.blocks[group][:width] for row in spec), rows * width, NULL_BLOCK)
            for group in range(config.groups)
        ),
    }


def token_indx(step: Step) -> list[int]:
    """The tokens of prefills, then those that verify drafts; empty where nothing speculates."""
    if not step.spec:
        return []
    verifying, others, token = [], [], 0
    for row in step.rows:
        for _ in range(row.tokens):
            (verifying if step.is_spec(row) else others).append(token)
            token += 1
    return others + verifying


def shared_tables(step: Step) -> dict[str, list[Any]]:
    """What ranks exchange. None: whatever the step has there, it is not read."""
    config, requests = step.config, step.shared
    size, ranks = config.max_seqs, range(config.ranks)
    last, past, final = [], [], []
    token = len(step.decodes)  # of this rank: where the next prefill's start
    for place, row in enumerate(requests):
        bounds = offsets(
            [row.whole // config.ranks + (r < row.whole % config.ranks) for r in ranks]
        )
        assert bounds[config.rank + 1] - bounds[config.rank] == row.tokens
        token += row.tokens
        for back in range(CONV_HISTORY, 0, -1):
            last.append(token - back if back <= row.tokens else None)
        for found, end in ((past, bounds[config.rank]), (final, row.whole)):
            for at in range(end - CONV_HISTORY, end):
                source, source_end = 0, 0  # the histories before the step
                for r in ranks:
                    if bounds[r] <= at < bounds[r + 1]:
                        source, source_end = 1 + r, bounds[r + 1]
                first = (source * len(requests) + place) * CONV_HISTORY
                found.append(first + CONV_HISTORY - (source_end - at))
    return {
        "shared_state_indices": state_blocks(config, requests, size),
        "shared_has_initial_state": padded([row.context > 0 for row in requests], size, False),
        "own_prefills": padded([i for i, row in enumerate(requests) if row.tokens], size, 0),
        "conv_last_rows": padded(last, size * CONV_HISTORY, 0),
        "conv_past_rows": padded(past, size * CONV_HISTORY, 0),
        "conv_final_rows": padded(final, size * CONV_HISTORY, 0),
    }
