# SPDX-License-Identifier: Apache-2.0
"""``npu_causal_conv1d_custom`` of vllm-ascend.

Checks: ``csrc/moe/causal_conv1d/op_host/causal_conv1d_tiling_validation.h`` (0.23.0.post1).
What it does to the states: ``op_kernel/causal_conv1d.h`` there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from .checks import INTEGERS, NARROW, require, require_contiguous, require_dtype, require_shape

NAME = "npu_causal_conv1d_custom"
PREFILL, UPDATE = 0, 1
DIM_ALIGNMENT = 16


def npu_causal_conv1d_custom(
    output: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    conv_state: torch.Tensor,
    bias_opt: torch.Tensor | None,
    query_start_loc_opt: torch.Tensor | None,
    cache_indices_opt: torch.Tensor | None,
    initial_state_mode_opt: torch.Tensor | None,
    num_accepted_tokens_opt: torch.Tensor | None,
    activation_mode: int,
    pad_slot_id: int,
    run_mode: int,
) -> torch.Tensor:
    """Write the convolution of ``x`` to ``output``, and its last inputs to ``conv_state``.

    ``x``, ``output`` [tokens, dim]; ``weight`` [width, dim]; ``conv_state`` [blocks, at least
    width - 1, dim]; ``query_start_loc_opt`` [sequences + 1]; ``cache_indices_opt`` [sequences] or
    [sequences, n], of which the first column counts. Row ``i`` of a state is the input of
    ``width - 1 - i`` tokens ago; with ``num_accepted_tokens_opt`` the last token is that of row
    ``accepted + width - 3``.
    """
    _check(output, x, weight, conv_state, bias_opt, activation_mode, run_mode)
    require(query_start_loc_opt is not None, NAME, "a 2-D x without query_start_loc")
    bounds = _bounds(query_start_loc_opt, len(x), run_mode)
    sequences = len(bounds) - 1
    blocks = _blocks(cache_indices_opt, sequences, len(conv_state), pad_slot_id)
    has_state = _has_state(initial_state_mode_opt, sequences, run_mode)
    accepted = _accepted(num_accepted_tokens_opt, sequences, run_mode, len(weight))

    convolve(
        output, x, weight, conv_state, bias_opt, activation_mode == 1, bounds, blocks, has_state,
        accepted,
    )  # fmt: skip
    return output


def convolve(
    output: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    conv_state: torch.Tensor,
    bias: torch.Tensor | None,
    activated: bool,
    bounds: Sequence[int],
    blocks: Sequence[int | None],
    has_state: Sequence[bool],
    accepted: Sequence[int] | None,
) -> None:
    """What the kernel does, to ``output`` and ``conv_state``; without a block, nothing."""
    history = len(weight) - 1
    state_length = conv_state.shape[1]
    for i, (start, end, block) in enumerate(zip(bounds[:-1], bounds[1:], blocks, strict=True)):
        if start == end or block is None:
            continue
        first = 0
        if accepted is not None:
            first = min(max(accepted[i] - 1, 0), state_length - history)
        state = conv_state[block]
        past = state[first : first + history] if has_state[i] else torch.zeros_like(state[:history])
        inputs = torch.cat([past, x[start:end]])
        windows = inputs.unfold(0, len(weight), 1)  # [tokens, dim, width]
        result = (windows.float() * weight.t().float()).sum(-1)
        if bias is not None:
            result += bias.float()
        output[start:end] = functional.silu(result) if activated else result
        if accepted is not None and history - 1 + end - start <= state_length:
            # Without the oldest one, and all of this step's: which are accepted is not known yet.
            state[: history - 1 + end - start] = inputs[1:]
        else:
            state[:history] = inputs[-history:]


def _check(
    output: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    conv_state: torch.Tensor,
    bias: torch.Tensor | None,
    activation_mode: int,
    run_mode: int,
) -> None:
    require(activation_mode in (0, 1), NAME, f"activation_mode {activation_mode} is not 0 or 1")
    require(run_mode in (PREFILL, UPDATE), NAME, f"run_mode {run_mode} is not 0 or 1")
    require_shape(NAME, "x", x, None, None)
    dim = x.shape[1]
    require(dim > 0 and dim % DIM_ALIGNMENT == 0, NAME, f"dim {dim}: no multiple of 16")
    require_shape(NAME, "output", output, *x.shape)
    require_shape(NAME, "weight", weight, None, dim)
    width = len(weight)
    require(2 <= width <= 4, NAME, f"width {width} is not 2 to 4")
    require_shape(NAME, "conv_state", conv_state, None, None, dim)
    require(len(conv_state) > 0, NAME, "conv_state has no blocks")
    require(conv_state.shape[1] >= width - 1, NAME, "conv_state is shorter than width - 1")
    require_dtype(NAME, "x", x, *NARROW)
    for name, tensor in {"output": output, "weight": weight, "conv_state": conv_state}.items():
        require_dtype(NAME, name, tensor, x.dtype)
    # Made contiguous by a copy: what is written to that is lost.
    require_contiguous(NAME, output=output, conv_state=conv_state)
    if bias is not None:
        require_shape(NAME, "bias", bias, dim)
        require_dtype(NAME, "bias", bias, x.dtype)


def _bounds(query_start_loc: torch.Tensor, tokens: int, run_mode: int) -> list[int]:
    require_dtype(NAME, "query_start_loc", query_start_loc, *INTEGERS)
    require(query_start_loc.dim() == 1, NAME, "query_start_loc is not 1-D")
    bounds = query_start_loc.tolist()
    require(len(bounds) > 1, NAME, "no sequence: query_start_loc has fewer than 2 entries")
    require(
        bounds[0] >= 0 and bounds[-1] <= tokens and bounds == sorted(bounds),
        NAME,
        f"query_start_loc {bounds} does not rise within the {tokens} tokens",
    )
    if run_mode == UPDATE and len(bounds) == tokens + 1:
        # As many sequences as tokens: the kernel takes one token each, whatever the bounds.
        require(
            bounds == list(range(tokens + 1)),
            NAME,
            f"{tokens} sequences of {tokens} tokens, yet query_start_loc is {bounds}",
        )
    return bounds


def _blocks(
    indices: torch.Tensor | None, sequences: int, blocks: int, pad_slot_id: int
) -> list[int | None]:
    """The block of each sequence's state; None for padding."""
    if indices is None:
        require(blocks >= sequences, NAME, "no cache_indices, and fewer blocks than sequences")
        return list(range(sequences))
    require_dtype(NAME, "cache_indices", indices, *INTEGERS)
    require(indices.dim() in (1, 2), NAME, "cache_indices is neither 1-D nor 2-D")
    require(
        len(indices) == sequences,
        NAME,
        f"cache_indices has {len(indices)} rows for {sequences} sequences",
    )
    # The kernel counts in whole rows from the first element.
    require_contiguous(NAME, cache_indices=indices)
    first = (indices if indices.dim() == 1 else indices[:, 0]).tolist()
    real = [None if index == pad_slot_id else index for index in first]
    require(
        all(index is None or 0 <= index < blocks for index in real),
        NAME,
        f"cache_indices {first} leave the {blocks} blocks",
    )
    return real


def _has_state(mode: torch.Tensor | None, sequences: int, run_mode: int) -> list[bool]:
    if run_mode == UPDATE:
        require(mode is None, NAME, "initial_state_mode goes with run_mode 0 only")
        return [True] * sequences
    if mode is None:
        return [False] * sequences
    require_shape(NAME, "initial_state_mode", mode, sequences)
    require_dtype(NAME, "initial_state_mode", mode, torch.bool, *INTEGERS)
    return mode.bool().tolist()


def _accepted(
    accepted: torch.Tensor | None, sequences: int, run_mode: int, width: int
) -> list[int] | None:
    if accepted is None:
        return None
    require(run_mode == UPDATE, NAME, "num_accepted_tokens goes with run_mode 1 only")
    require(width == 4, NAME, f"num_accepted_tokens goes with width 4 only, not {width}")
    require_shape(NAME, "num_accepted_tokens", accepted, sequences)
    require_dtype(NAME, "num_accepted_tokens", accepted, *INTEGERS)
    return accepted.tolist()
