# SPDX-License-Identifier: Apache-2.0
"""``npu_recurrent_gated_delta_rule`` and ``npu_fused_gdn_gating`` of vllm-ascend.

Checks: ``csrc/attention/recurrent_gated_delta_rule/`` and ``csrc/attention/fused_gdn_gating/``
(0.23.0.post1), ``*_torch_adpt.h``, ``op_host/*_tiling.cpp``, ``op_host/*_def.cpp``. The kernel of
the former leaves its output as it is where it meets a length or an index that it does not like;
here that raises.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from .checks import BFLOAT16, NARROW, require, require_contiguous, require_dtype, require_shape

RULE = "npu_recurrent_gated_delta_rule"
GATING = "npu_fused_gdn_gating"
LONGEST = 16


def npu_recurrent_gated_delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    state: torch.Tensor,
    *,
    beta: torch.Tensor | None = None,
    scale: float | None = None,
    actual_seq_lengths: torch.Tensor | None = None,
    ssm_state_indices: torch.Tensor | None = None,
    num_accepted_tokens: torch.Tensor | None = None,
    g: torch.Tensor | None = None,
    gk: torch.Tensor | None = None,
) -> torch.Tensor:
    """Up to 16 tokens of each sequence, one after the other; returns [tokens, Hv, V], bfloat16.

    ``query``, ``key`` [tokens, Hk, K]; ``value`` [tokens, Hv, V]; ``state`` [blocks, Hv, V, K],
    float32 or bfloat16, in place; ``actual_seq_lengths`` int32 [sequences + 1]: the first token,
    then lengths; ``ssm_state_indices`` int32 [tokens]: the block to which the state after that
    token goes. The state before the first one is that of token ``num_accepted_tokens - 1``, or 0.
    """
    require_contiguous(RULE, state=state)  # otherwise a copy takes the writes
    return recurrence(
        RULE, LONGEST, query, key, value, state, beta, scale, actual_seq_lengths,
        ssm_state_indices, num_accepted_tokens, g, gk,
    )  # fmt: skip


def recurrence(
    rule: str,
    longest: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    state: torch.Tensor,
    beta: torch.Tensor | None,
    scale: float | None,
    actual_seq_lengths: torch.Tensor | None,
    ssm_state_indices: torch.Tensor | None,
    num_accepted_tokens: torch.Tensor | None,
    g: torch.Tensor | None,
    gk: torch.Tensor | None,
) -> torch.Tensor:
    """The operator ``rule``, which takes up to ``longest`` tokens of a sequence."""
    require(gk is None, rule, "gk is not emulated")
    for name, tensor in {
        "beta": beta,
        "actual_seq_lengths": actual_seq_lengths,
        "ssm_state_indices": ssm_state_indices,
    }.items():
        require(tensor is not None, rule, f"{name} is missing")
    require(scale is not None, rule, "scale is missing")
    _check(rule, query, key, value, state, beta, actual_seq_lengths, ssm_state_indices, g)

    start, *lengths = actual_seq_lengths.tolist()
    blocks = ssm_state_indices.tolist()
    accepted = None
    if num_accepted_tokens is not None:
        require_dtype(rule, "num_accepted_tokens", num_accepted_tokens, torch.int32)
        require_shape(rule, "num_accepted_tokens", num_accepted_tokens, len(lengths))
        accepted = num_accepted_tokens.tolist()

    group = value.shape[1] // key.shape[1]
    queries = query.float().repeat_interleave(group, 1) * scale
    keys = key.float().repeat_interleave(group, 1)
    output = torch.full(value.shape, float("nan"), dtype=BFLOAT16[0])
    for i, length in enumerate(lengths):
        if length <= 0:
            continue
        end = start + length
        require(length <= longest, rule, f"sequence {i} has {length} tokens, more than {longest}")
        require(
            start >= 0 and end <= len(query) and end <= len(blocks),
            rule,
            f"sequence {i}: tokens {start} to {end} of {len(query)}, {len(blocks)} state indices",
        )
        first = start
        if accepted is not None:
            require(
                1 <= accepted[i] <= length,
                rule,
                f"sequence {i}: {accepted[i]} accepted tokens, but {length} tokens",
            )
            first = start + accepted[i] - 1
        used = [blocks[first], *blocks[start:end]]
        require(
            all(0 <= block < len(state) for block in used),
            rule,
            f"sequence {i}: state indices {used} leave the {len(state)} blocks",
        )
        now = state[blocks[first]].float()
        for t in range(start, end):
            if g is not None:
                now = now * g[t].exp()[:, None, None]
            error = value[t].float() - (now @ keys[t, :, :, None])[..., 0]
            now = now + (beta[t].float()[:, None] * error)[..., None] * keys[t, :, None, :]
            output[t] = (now @ queries[t, :, :, None])[..., 0]
            state[blocks[t]] = now
        start = end
    return output


def _check(
    rule: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    state: torch.Tensor,
    beta: torch.Tensor,
    actual_seq_lengths: torch.Tensor,
    ssm_state_indices: torch.Tensor,
    g: torch.Tensor | None,
) -> None:
    for name, tensor in {"query": query, "key": key, "value": value, "beta": beta}.items():
        require_dtype(rule, name, tensor, *BFLOAT16)
    require_dtype(rule, "state", state, torch.float32, torch.bfloat16)
    require_dtype(rule, "actual_seq_lengths", actual_seq_lengths, torch.int32)
    require_dtype(rule, "ssm_state_indices", ssm_state_indices, torch.int32)
    require_shape(rule, "query", query, None, None, None)
    tokens, key_heads, key_dim = query.shape
    require_shape(rule, "key", key, tokens, key_heads, key_dim)
    require_shape(rule, "value", value, tokens, None, None)
    _, value_heads, value_dim = value.shape
    require_shape(rule, "beta", beta, tokens, value_heads)
    require_shape(rule, "state", state, None, value_heads, value_dim, key_dim)
    require_shape(rule, "actual_seq_lengths", actual_seq_lengths, None)
    require_shape(rule, "ssm_state_indices", ssm_state_indices, None)
    require(max(key_heads, value_heads) <= 256, rule, "more than 256 heads")
    require(max(key_dim, value_dim) <= 512, rule, "heads of more than 512")
    require(value_heads % key_heads == 0, rule, "value heads are no multiple of key heads")
    if g is not None:
        require_dtype(rule, "g", g, torch.float32)
        require_shape(rule, "g", g, tokens, value_heads)


def npu_fused_gdn_gating(
    A_log: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    dt_bias: torch.Tensor,
    beta: float = 1.0,
    threshold: float = 20.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``g`` [1, tokens, heads] float32 and beta, as ``b``; ``a``, ``b`` [tokens, heads]."""
    require_shape(GATING, "A_log", A_log, None)
    require_shape(GATING, "dt_bias", dt_bias, *A_log.shape)
    require_shape(GATING, "a", a, None, len(A_log))
    require_shape(GATING, "b", b, *a.shape)
    require_dtype(GATING, "a", a, *NARROW)
    require_dtype(GATING, "b", b, a.dtype)
    require_dtype(GATING, "A_log", A_log, torch.float32, *NARROW)
    require_dtype(GATING, "dt_bias", dt_bias, A_log.dtype)
    step = functional.softplus(a.float() + dt_bias.float(), beta, threshold)
    return (-A_log.float().exp() * step)[None], b.float().sigmoid().to(b.dtype)[None]
