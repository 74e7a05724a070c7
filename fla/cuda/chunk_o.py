# SPDX-License-Identifier: Apache-2.0
"""From chunk to chunk: the recurrence over the states, in place, and the output.

``chunk_delta_h`` and ``chunk_o`` of vLLM 0.23.0 in one kernel, from the mathematics: the state
before each chunk stays in registers, where vLLM writes it to memory for the output's kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize_on_alignment=["state_indices", "has_initial_state"])
def chunk_delta_h_o_kernel(
    q,
    k,
    v,
    decay_from_start,
    decay_to_end,
    solved,
    attention,
    out,
    states,
    state_indices,
    has_initial_state,
    cu_seqlens,
    chunk_offsets,
    state_stride,
    Hk: tl.constexpr,
    Hv: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Some columns of one value head of one sequence.

    With S the state before a chunk, [V, K], and D_i what the chunk has forgotten up to token i,
    the new values are solved (v - D S k): what the chunk's other tokens do to it is in
    ``solved``, which has the betas. All is held transposed, [V, tokens], so that what one product
    gives is what the next one takes, in registers.
    """
    seq, head = tl.program_id(1) // Hv, tl.program_id(1) % Hv
    start = tl.load(cu_seqlens + seq).to(tl.int64)
    length = (tl.load(cu_seqlens + seq + 1) - start).to(tl.int32)
    if length == 0:
        return
    keys, tokens = tl.arange(0, BLOCK_K), tl.arange(0, CHUNK)
    columns = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    is_key, is_column = keys < K, columns < V
    dtype = k.dtype.element_ty

    states += tl.load(state_indices + seq).to(tl.int64) * state_stride + head * V * K
    state_rows = columns[:, None] * K + keys[None, :]
    is_state = is_column[:, None] & is_key[None, :]
    state = tl.zeros((BLOCK_V, BLOCK_K), tl.float32)
    if tl.load(has_initial_state + seq) != 0:
        state = tl.load(states + state_rows, is_state, other=0).to(tl.float32)

    chunk = tl.load(chunk_offsets + seq).to(tl.int64)
    first_key = (chunk * CHUNK * Hk + head // (Hv // Hk)) * K
    k_rows = k + first_key + tokens[:, None] * (Hk * K) + keys[None, :]
    q_rows = q + first_key + tokens[:, None] * (Hk * K) + keys[None, :]
    value_rows = tokens[:, None] * (Hv * V) + columns[None, :]
    v_rows = v + (chunk * CHUNK * Hv + head) * V + value_rows
    o_rows = out + (start * Hv + head) * V + value_rows
    place = chunk * Hv + head
    square = place * CHUNK * CHUNK + tokens[:, None] * CHUNK + tokens[None, :]
    solved_rows, attention_rows = solved + square, attention + square
    from_start, to_end = (
        decay_from_start + place * CHUNK + tokens,
        decay_to_end + place * CHUNK + tokens,
    )
    whole = decay_from_start + place * CHUNK + CHUNK - 1
    for done in tl.range(0, length, CHUNK, num_stages=STAGES):
        b_k = tl.load(k_rows, is_key[None, :], other=0)
        b_q = tl.load(q_rows, is_key[None, :], other=0)
        b_v = tl.load(v_rows, is_column[None, :], other=0)
        b_solved = tl.trans(tl.load(solved_rows))
        decay = tl.load(from_start)[None, :]
        before = state.to(dtype)
        values = tl.dot(tl.trans(b_v), b_solved)
        known = tl.dot(before, tl.trans(b_k)) * -decay
        values = tl.dot(known.to(dtype), b_solved, values)
        kept = (values * tl.load(to_end)[None, :]).to(dtype)
        o = tl.dot(before, tl.trans(b_q)) * decay
        o = tl.dot(values.to(dtype), tl.trans(tl.load(attention_rows)), o)
        state = tl.dot(kept, b_k, state * tl.load(whole))
        is_row = (done + tokens < length)[:, None] & is_column[None, :]
        tl.store(o_rows, tl.trans(o.to(dtype)), is_row)
        k_rows += CHUNK * Hk * K
        q_rows += CHUNK * Hk * K
        v_rows += CHUNK * Hv * V
        o_rows += CHUNK * Hv * V
        solved_rows += Hv * CHUNK * CHUNK
        attention_rows += Hv * CHUNK * CHUNK
        from_start += Hv * CHUNK
        to_end += Hv * CHUNK
        whole += Hv * CHUNK
    tl.store(states + state_rows, state.to(states.dtype.element_ty), is_state)
