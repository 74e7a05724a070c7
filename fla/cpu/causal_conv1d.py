# SPDX-License-Identifier: Apache-2.0
"""Short causal depthwise convolution over packed sequences, on CPU.

Multiplies and adds in float32 and rounds once, after the activation. Shifted sums over the tokens
beat grouped ``F.conv1d``, which vllm/model_executor/layers/mamba/ops/cpu/causal_conv1d.py (0.23.0)
runs once a sequence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ascend_gdn.attention.cpu import SpecLayout
from ascend_gdn.attention.cpu_layouts import ChunkLayout

_TILE = 128
"""Tokens at a time: the float32 sums of a tile stay in cache."""


def _taps(weight: torch.Tensor) -> torch.Tensor:
    """Return [W, dim] float32 contiguous of ``weight`` [dim, W]."""
    taps = weight.new_empty(weight.shape[1], weight.shape[0], dtype=torch.float32)
    return taps.copy_(weight.t())


def _convolve(
    window: torch.Tensor,
    taps: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
    out: torch.Tensor,
) -> None:
    """Convolve ``window`` [..., n + W - 1, dim] float32 into ``out`` [..., n, dim]."""
    count = out.shape[-2]
    width = taps.shape[0]
    total = window.narrow(-2, 0, count) * taps[0]
    for tap in range(1, width):
        total.addcmul_(window.narrow(-2, tap, count), taps[tap])
    if bias is not None:
        total.add_(bias)
    if activation is not None:
        F.silu(total, inplace=True)
    out.copy_(total)


def _check_activation(activation: str | None) -> None:
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"causal_conv1d: activation {activation!r}, expected silu, swish or None")


def causal_conv1d_fn(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
    conv_states: torch.Tensor,
    cache_indices: torch.Tensor,
    has_initial_state: torch.Tensor,
    layout: ChunkLayout,
) -> torch.Tensor:
    """Convolve N sequences of together T tokens, and leave each one's last inputs in its state.

    Args:
        x: [T, dim] bfloat16 or float32, CPU.
        weight: [dim, W], any floating dtype; the last tap is the token's own.
        bias: [dim] or None.
        activation: "silu", "swish" (the same) or None.
        conv_states: [num_blocks, dim, state_len], state_len >= W - 1, any strides; the first W - 1
            places of the blocks named by ``cache_indices`` are overwritten, nothing else is.
        cache_indices: [N] integer: block of each sequence, all different.
        has_initial_state: [N] bool: False means zeros, whatever the block holds.
        layout: Layout of the T tokens.

    Returns:
        [T, dim] in x's dtype.
    """
    _check_activation(activation)
    num_tokens, dim = x.shape
    width = weight.shape[1]
    reach = width - 1
    taps, borders = _taps(weight), layout.conv(width)
    out = torch.empty(num_tokens, dim, dtype=x.dtype)

    for start in range(reach, num_tokens, _TILE):
        end = min(start + _TILE, num_tokens)
        _convolve(x[start - reach : end].float(), taps, bias, activation, out[start:end])

    # The pass above read across borders; the first tokens of each sequence are written again here.
    states = conv_states.transpose(1, 2)[:, :reach]
    edge = torch.empty(layout.num_seqs, 2 * reach, dim, dtype=torch.float32)
    edge[:, :reach] = states.index_select(0, cache_indices)
    edge[:, :reach].masked_fill_(~has_initial_state.view(-1, 1, 1), 0.0)
    edge[:, reach:] = x.index_select(0, borders.head_tokens).view(-1, reach, dim)
    head = torch.empty(layout.num_seqs, reach, dim, dtype=x.dtype)
    _convolve(edge, taps, bias, activation, head)
    head_tokens, head_flat = borders.head_tokens, head.view(-1, dim)
    if borders.head_rows is not None:
        head_tokens = head_tokens.index_select(0, borders.head_rows)
        head_flat = head_flat.index_select(0, borders.head_rows)
    out.index_copy_(0, head_tokens, head_flat)

    tail = x.index_select(0, borders.tail_tokens)
    if borders.short_rows is not None and borders.short_edges is not None:
        kept = edge.view(-1, dim).index_select(0, borders.short_edges)
        tail.index_copy_(0, borders.short_rows, kept.to(tail.dtype))
    new_states = tail.view(-1, reach, dim).to(states.dtype)
    states.index_copy_(0, cache_indices.long(), new_states)
    return out


def causal_conv1d_update(
    x: torch.Tensor,
    conv_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
    conv_state_indices: torch.Tensor,
) -> torch.Tensor:
    """Convolve one token of each of B requests and shift it into their states.

    Args:
        x: [B, dim] bfloat16 or float32, CPU.
        conv_states: [num_blocks, dim, state_len] as for :func:`causal_conv1d_fn`, updated in place.
        weight, bias, activation: As for :func:`causal_conv1d_fn`.
        conv_state_indices: [B] integer: block of each request, all different.

    Returns:
        [B, dim] in x's dtype.
    """
    _check_activation(activation)
    reach = weight.shape[1] - 1
    states = conv_states.transpose(1, 2)[:, :reach]
    window = torch.cat((states.index_select(0, conv_state_indices), x.unsqueeze(1)), dim=1)
    states.index_copy_(0, conv_state_indices.long(), window[:, 1:].to(states.dtype))
    total = (window.float() * _taps(weight)).sum(dim=1)
    if bias is not None:
        total.add_(bias)
    if activation is not None:
        F.silu(total, inplace=True)
    return total.to(x.dtype)


def causal_conv1d_update_spec(
    x: torch.Tensor,
    conv_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
    conv_state_indices: torch.Tensor,
    num_accepted_tokens: torch.Tensor,
    layout: SpecLayout,
) -> torch.Tensor:
    """Convolve the tokens that S requests verify, from where each one's accepted tokens end.

    A state holds the inputs before the first token of the last step, then those of all its tokens:
    whichever of them are accepted, the W - 1 before the next token are there
    (``causal_conv1d_update`` in vllm/model_executor/layers/mamba/ops/causal_conv1d.py, 0.23.0).

    Args:
        x: [T, dim] bfloat16 or float32, CPU.
        conv_states: [num_blocks, dim, state_len], state_len >= W - 2 + L; updated in place.
        weight, bias, activation: As for :func:`causal_conv1d_fn`.
        conv_state_indices: [S] integer: block of each request, all different.
        num_accepted_tokens: [S] integer, at least 1.
        layout: Layout of the T tokens, at most L a request.

    Returns:
        [T, dim] in x's dtype.
    """
    _check_activation(activation)
    requests, dim, reach = layout.num_seqs, x.shape[1], weight.shape[1] - 1
    states = conv_states.transpose(1, 2)
    own = conv_state_indices.long()
    kept = (num_accepted_tokens - 1).long().view(-1, 1) + torch.arange(reach)
    window = torch.cat((states[own.view(-1, 1), kept], layout.by_request(x)), dim=1)
    states[:, : window.shape[1] - 1].index_copy_(0, own, window[:, 1:].to(states.dtype))
    out = torch.empty(requests, layout.longest, dim, dtype=x.dtype)
    _convolve(window.float(), _taps(weight), bias, activation, out)
    return layout.by_token(out)
