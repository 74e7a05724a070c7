# SPDX-License-Identifier: Apache-2.0
"""What the builders must hand out, as lists: part of the slow model.

Names are those of vLLM's ``GDNAttentionMetadata`` (0.23.0) and of attention/metadata.py.
"""

from __future__ import annotations

from typing import Any

from ascend_gdn.attention.table_layout import CHUNK_SIZE, LARGE_BLOCK_SIZE

from .model import CONV_HISTORY, NULL_BLOCK, Step
from .tables import block_rows, padded, token_indx

Tables = dict[str, list[Any]]


def row_counts(step: Step) -> tuple[int, int]:
    """Rows of requests that do not verify drafts, and that do: as a graph is padded, if one is
    replayed."""
    config, others, spec = step.config, len(step.non_spec), len(step.spec)
    graph = config.full_graph and len(step.rows) <= config.max_seqs * (config.num_spec + 1)
    if step.in_ring or not graph:
        return others, spec
    rows = min(step.num_actual_tokens, config.decode_rows)
    return (0, rows) if step.spec else (rows, 0)


def shared_fields(step: Step, tables: Tables) -> dict[str, Any]:
    """What all KV cache groups have in common."""
    rows, spec_rows = row_counts(step)
    prefills, decodes, spec = step.prefills, step.decodes, step.spec
    fields: dict[str, Any] = {
        "num_prefills": len(prefills),
        "num_prefill_tokens": sum(row.tokens for row in prefills),
        "num_decodes": len(decodes),
        "num_decode_tokens": len(decodes),
        "num_spec_decodes": len(spec),
        "num_spec_decode_tokens": sum(row.tokens for row in spec),
        "num_actual_tokens": step.num_actual_tokens,
        "spec_first": bool(spec) and all(step.is_spec(row) for row in step.rows[: len(spec)]),
        "num_initial_states": 0,
    }
    names = "has_initial_state prefill_has_initial_state prefill_query_start_loc chunk_indices"
    names += " chunk_offsets non_spec_query_start_loc spec_query_start_loc spec_sequence_masks"
    names += " num_accepted_tokens non_spec_token_indx spec_token_indx"
    fields |= dict.fromkeys(names.split())
    if step.in_ring or not spec:
        fields["non_spec_query_start_loc"] = tables["query_start_loc"][: rows + 1]
    if step.in_ring:
        states, count = tables["has_initial_state"][:rows], len(prefills)
        fields["has_initial_state"] = states
        fields["prefill_has_initial_state"] = states[len(decodes) :]
        fields["num_initial_states"] = sum(row.context > 0 for row in prefills)
        fields["prefill_query_start_loc"] = tables["cu_seqlens"][: count + 1]
        fields["chunk_indices"] = chunk_fields(step, tables)["chunk_indices_chunk64"]
        fields["chunk_offsets"] = tables["chunk_offsets_chunk64"][: count + 1]
    if spec:
        masks = len(step.rows) if step.in_ring else spec_rows
        order, others = token_indx(step), sum(row.tokens for row in prefills)
        fields["spec_query_start_loc"] = tables["spec_query_start_loc"][: spec_rows + 1]
        fields["spec_sequence_masks"] = tables["spec_sequence_masks"][:masks]
        fields["num_accepted_tokens"] = tables["num_accepted_tokens"][:spec_rows]
        fields["non_spec_token_indx"], fields["spec_token_indx"] = order[:others], order[others:]
    return fields


def group_fields(step: Step, group: int) -> dict[str, Any]:
    """The state indices of one KV cache group."""
    rows, spec_rows = row_counts(step)
    width = step.config.num_spec + 1
    others = [row.blocks[group][0] for row in step.non_spec]
    spec = [row.blocks[group][:width] for row in step.spec]
    prefills = [row.blocks[group][0] for row in step.prefills]
    return {
        "spec_state_indices_tensor": (
            padded(spec, spec_rows, [NULL_BLOCK] * width) if step.spec else None
        ),
        "non_spec_state_indices_tensor": (
            padded(others, rows, NULL_BLOCK) if step.in_ring or not step.spec else None
        ),
        "prefill_state_indices": prefills if step.in_ring else None,
    }


def chunk_fields(step: Step, tables: Tables) -> dict[str, Any]:
    """The contract's tables, without padding."""
    lengths, count = [row.tokens for row in step.prefills], len(step.prefills)
    sizes = {
        "chunk_indices_chunk64": CHUNK_SIZE,
        "chunk_indices_chunk64_cpu": CHUNK_SIZE,
        "chunk_indices_large_block": LARGE_BLOCK_SIZE,
        "block_indices_cumsum": step.config.cumsum_block,
    }
    updates = tables["update_chunk_offsets_chunk64"]
    return {
        **{name: [list(row) for row in block_rows(lengths, size)] for name, size in sizes.items()},
        "cu_seqlens": tables["cu_seqlens"][: count + 1],
        "cu_seqlens_cpu": tables["cu_seqlens"][: count + 1],
        "chunk_offsets_chunk64": tables["chunk_offsets_chunk64"][: count + 1],
        "update_chunk_offsets_chunk64": updates[: count + 1],
        "final_chunk_indices_chunk64": tables["final_chunk_indices_chunk64"][:count],
    }


def convolution_fields(step: Step, tables: Tables, group: int) -> dict[str, Any]:
    first = len(step.decodes)
    return {
        "query_start_loc_cpu": tables["cu_seqlens"][: len(step.prefills) + 1],
        "cache_indices_cpu": [row.blocks[group][0] for row in step.prefills],
        "has_initial_state_cpu": tables["has_initial_state"][first : first + len(step.prefills)],
    }


def context_parallel_fields(step: Step, tables: Tables, group: int) -> dict[str, Any]:
    """What the layers of one KV cache group exchange between ranks."""
    count, own = len(step.shared), len(step.prefills)
    rows = count * CONV_HISTORY
    return {
        "state_indices": [row.blocks[group][0] for row in step.shared],
        "has_initial_state": [row.context > 0 for row in step.shared],
        "conv_last_rows": tables["conv_last_rows"][:rows],
        "conv_past_rows": tables["conv_past_rows"][:rows],
        "conv_final_rows": tables["conv_final_rows"][:rows],
        "own_prefills": None if own == count else tables["own_prefills"][:own],
    }
