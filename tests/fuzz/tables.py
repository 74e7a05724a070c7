# SPDX-License-Identifier: Apache-2.0
"""What a step's tables must hold, padding included: part of the slow model.

They are those of attention/table_layout.py, flat, as lists.
"""

from __future__ import annotations

from typing import Any

from ascend_gdn.attention.table_layout import CHUNK_SIZE, LARGE_BLOCK_SIZE

from .model import CONV_HISTORY, NULL_BLOCK, Config, Row, Step


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
        tokens = verifying if step.is_spec(row) else others
        for _ in range(row.tokens):
            tokens.append(token)
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
