# SPDX-License-Identifier: Apache-2.0
"""All that comes before the chunked delta rule, in one pass over the tokens.

Causal convolution, SiLU, the cut into heads, the l2 norm of queries and keys, and the gates: two
kernels in vLLM 0.23.0, between which the tokens go through memory once more.
"""

from __future__ import annotations

import triton
import triton.language as tl

GATES_LINEAR_FROM = tl.constexpr(20.0)
"""Where softplus is its argument: ``SOFTPLUS_THRESHOLD`` of ``fused_post_conv_prep`` in vLLM's
model_executor/layers/fla/ops/fused_gdn_prefill_post_conv.py (0.23.0)."""


@triton.jit
def _leave_window(
    x,
    state,
    length,
    cols,
    is_col,
    past,
    x_stride,
    STATE_TOKEN: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Leave the sequence's last inputs, those of this step or of the state before, as its state."""
    slots = tl.arange(0, BLOCK_W)[:, None]
    taken = length - (WIDTH - 1) + slots
    kept = (slots < WIDTH - 1) & is_col
    latest = tl.load(x + taken * x_stride + cols, kept & (taken >= 0), other=0)
    latest = latest.to(state.dtype.element_ty)
    if past:
        taken += WIDTH - 1
        latest += tl.load(state + taken * STATE_TOKEN, kept & (taken < WIDTH - 1), other=0)
    tl.debug_barrier()  # all of the program have read the state
    tl.store(state + slots * STATE_TOKEN, latest, kept)


@triton.jit
def _gates(
    a,
    b,
    A_log,
    dt_bias,
    g,
    beta,
    length,
    a_stride,
    b_stride,
    out_stride,
    CHUNK: tl.constexpr,
    IN_CHUNKS: tl.constexpr,
):
    """Log decay and beta of one head over a chunk; zeros past its tokens, where there is room."""
    tokens = tl.arange(0, CHUNK)
    is_token = tokens < length
    decay_input = tl.load(a + tokens * a_stride, is_token, other=0).to(tl.float32)
    decay_input += tl.load(dt_bias).to(tl.float32)
    softplus = tl.where(
        decay_input > GATES_LINEAR_FROM, decay_input, tl.log(1 + tl.exp(decay_input))
    )
    decay = -tl.exp(tl.load(A_log).to(tl.float32)) * softplus
    beta_input = tl.load(b + tokens * b_stride, is_token, other=0).to(tl.float32)
    written = is_token | IN_CHUNKS
    tl.store(g + tokens * out_stride, tl.where(is_token, decay, 0.0), written)
    tl.store(beta + tokens * out_stride, tl.where(is_token, tl.sigmoid(beta_input), 0.0), written)


# What the step's tables and the requests' gates start at is not always divisible by 16: compiling
# for that would have a request wait.
@triton.jit(do_not_specialize_on_alignment=["a", "b", "state_indices", "has_initial_state"])
def causal_conv1d_split_kernel(
    x,
    weight,
    bias,
    conv_states,
    a,
    b,
    A_log,
    dt_bias,
    q,
    k,
    v,
    g,
    beta,
    cu_seqlens,
    chunk_indices,
    state_indices,
    has_initial_state,
    x_stride,
    a_stride,
    b_stride,
    state_stride,
    STATE_CHANNEL: tl.constexpr,
    STATE_TOKEN: tl.constexpr,
    SCALE: tl.constexpr,
    IN_CHUNKS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SILU: tl.constexpr,
    WIDTH: tl.constexpr,
    Hk: tl.constexpr,
    Hv: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_W: tl.constexpr,
    CHUNK: tl.constexpr,
    RUN: tl.constexpr,
):
    """One head of queries, keys or values, of one chunk.

    Written by token, or IN_CHUNKS: 64 rows a chunk, zeros behind a sequence's last token, so that
    what reads them need not ask where it ends; and the gates by head. The program of a sequence's
    first chunk alone touches its state.
    """
    head, chunk = tl.program_id(0), tl.program_id(1).to(tl.int64)
    seq = tl.load(chunk_indices + 2 * chunk)
    first = tl.load(chunk_indices + 2 * chunk + 1) * CHUNK
    start = tl.load(cu_seqlens + seq).to(tl.int64)
    length = (tl.load(cu_seqlens + seq + 1) - start).to(tl.int32)

    is_value = head >= 2 * Hk
    size = tl.where(is_value, V, K)
    channel = tl.where(is_value, 2 * Hk * K + (head - 2 * Hk) * V, head * K)
    cols = tl.arange(0, BLOCK_D)[None, :]
    is_col = cols < size
    x += start * x_stride + channel
    state = conv_states + tl.load(state_indices + seq).to(tl.int64) * state_stride
    state += (channel + cols) * STATE_CHANNEL
    past = tl.load(has_initial_state + seq) != 0
    weight += (channel + cols) * WIDTH
    taps = ()
    for tap in tl.static_range(WIDTH):
        taps = taps + (tl.load(weight + tap, is_col, other=0).to(tl.float32),)  # noqa: RUF005

    row = start + first
    if IN_CHUNKS:
        row = chunk * CHUNK
    heads = tl.where(is_value, Hv, Hk)
    if head < Hk:
        out = q + (row * Hk + head) * K
    elif head < 2 * Hk:
        out = k + (row * Hk + head - Hk) * K
    else:
        out = v + (row * Hv + head - 2 * Hk) * V
    # Runs of tokens side by side, each over a window of the inputs before.
    RUNS: tl.constexpr = CHUNK // RUN
    runs = tl.arange(0, RUNS)[:, None] * RUN
    window = ()
    for tap in tl.static_range(WIDTH - 1):
        taken = first + runs + (tap - WIDTH + 1)
        inputs = tl.load(
            x + taken * x_stride + cols, (taken >= 0) & (taken < length) & is_col, other=0
        ).to(tl.float32)
        if first == 0 and past:
            taken += WIDTH - 1
            inputs += tl.load(
                state + taken * STATE_TOKEN, (taken < WIDTH - 1) & is_col, other=0
            ).to(tl.float32)
        window = window + (inputs,)  # noqa: RUF005
    for step in tl.static_range(RUN):
        is_token = (first + runs + step < length) & is_col
        inputs = tl.load(x + (first + runs + step) * x_stride + cols, is_token, other=0)
        inputs = inputs.to(tl.float32)
        acc = inputs * taps[WIDTH - 1]
        for tap in tl.static_range(WIDTH - 1):
            acc += window[tap] * taps[tap]
        window = window[1:] + (inputs,)  # noqa: RUF005
        if HAS_BIAS:
            acc += tl.load(bias + channel + cols, is_col, other=0).to(tl.float32)
        if SILU:
            acc *= tl.sigmoid(acc)
        acc = tl.where(is_token, acc, 0.0)
        if not is_value:
            norm = tl.rsqrt(tl.sum(acc * acc, 1) + 1e-6)
            if head < Hk:
                norm *= SCALE
            acc *= norm[:, None]
        written = is_col & (is_token | IN_CHUNKS)
        tl.store(out + (runs + step) * (heads * size) + cols, acc.to(x.dtype.element_ty), written)

    if first == 0:
        _leave_window(x, state, length, cols, is_col, past, x_stride, STATE_TOKEN, WIDTH, BLOCK_W)
    if is_value:
        head -= 2 * Hk
        place, out_stride = row * Hv + head, Hv
        if IN_CHUNKS:
            place, out_stride = (chunk * Hv + head) * CHUNK, 1
        _gates(
            a + (start + first) * a_stride + head, b + (start + first) * b_stride + head,
            A_log + head, dt_bias + head, g + place, beta + place, length - first,
            a_stride, b_stride, out_stride, CHUNK, IN_CHUNKS,
        )  # fmt: skip
