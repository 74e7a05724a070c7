# SPDX-License-Identifier: Apache-2.0
"""``causal_conv1d_fn`` and ``causal_conv1d_update`` of ``fla_npu.ops.ascendc``.

Signatures: ``torch_custom/fla_npu/fla_npu/ops/ascendc/_stable.py`` of
flashserve/flash-linear-attention-npu. Checks: ``op_host/causal_conv1d_tiling_validation.h`` of
``fla/ops/ascendc/gdn/gdn_preprocess/causal_conv1d`` there, and ``csrc/src/stable_causal_conv1d*``
for the buffer of the output. What is on the device no host code sees, and the kernel reads with it
out of bounds; here that raises. What it does to the states is as in :mod:`.ops_conv`.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from .checks import NARROW, require, require_dtype, require_shape
from .ops_conv import DIM_ALIGNMENT, convolve

FN, UPDATE = "causal_conv1d_fn", "causal_conv1d_update"


def causal_conv1d_fn(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    conv_states: torch.Tensor | None = None,
    query_start_loc: torch.Tensor | None = None,
    cache_indices: torch.Tensor | None = None,
    has_initial_state: torch.Tensor | None = None,
    activation: str | None = "silu",
    pad_slot_id: int = -1,
    null_block_id: int = 0,
) -> torch.Tensor:
    """Whole sequences: ``x`` [tokens, dim]; rows of the null or the padding block are left out.

    ``weight`` [width, dim]; ``conv_states`` [blocks, at least width - 1, dim], whose blocks need
    not follow each other closely; the tables int32 (``has_initial_state`` bool too), 1-D.
    """
    require(conv_states is not None and query_start_loc is not None, FN, "a table is missing")
    sequences = len(query_start_loc) - 1
    _check(FN, x, weight, bias, conv_states, activation)
    bounds = _bounds(FN, query_start_loc, len(x))
    blocks = _blocks(FN, cache_indices, sequences, len(conv_states), (pad_slot_id, null_block_id))
    has_state = [False] * sequences
    if has_initial_state is not None:
        require_dtype(FN, "has_initial_state", has_initial_state, torch.bool, torch.int32)
        require_shape(FN, "has_initial_state", has_initial_state, sequences)
        has_state = has_initial_state.bool().tolist()
    output = torch.full_like(x, float("nan"))
    convolve(output, x, weight, conv_states, bias, activation is not None, bounds, blocks,
             has_state, None)  # fmt: skip
    return output


def causal_conv1d_update(
    x: torch.Tensor,
    conv_state: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    conv_state_indices: torch.Tensor | None = None,
    num_accepted_tokens: torch.Tensor | None = None,
    query_start_loc: torch.Tensor | None = None,
    max_query_len: int = -1,
    null_block_id: int = 0,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """A few tokens of each sequence. Writes ``out``, or ``x`` in its place, and returns it.

    With as many sequences as tokens the kernel takes one token each, whatever the bounds.
    """
    _check(UPDATE, x, weight, bias, conv_state, activation)
    if query_start_loc is None:
        bounds = list(range(len(x) + 1))
    else:
        bounds = _bounds(UPDATE, query_start_loc, len(x))
    sequences, longest = (
        len(bounds) - 1,
        max(end - start for start, end in pairwise(bounds)),
    )
    if sequences == len(x):
        require(
            bounds == list(range(len(x) + 1)),
            UPDATE,
            f"{len(x)} sequences of {len(x)} tokens, yet query_start_loc is {bounds}",
        )
    elif max_query_len >= 0:
        require(longest <= max_query_len, UPDATE, f"{longest} tokens, more than {max_query_len}")
    blocks = _blocks(UPDATE, conv_state_indices, sequences, len(conv_state), (null_block_id,))
    accepted = None
    if num_accepted_tokens is not None:
        require_dtype(UPDATE, "num_accepted_tokens", num_accepted_tokens, torch.int32)
        require_shape(UPDATE, "num_accepted_tokens", num_accepted_tokens, sequences)
        needed = len(weight) - 1 + max(max_query_len - 1, 0)
        require(
            conv_state.shape[1] >= needed or sequences == len(x),
            UPDATE,
            f"states of {conv_state.shape[1]} inputs, fewer than the {needed} of drafts",
        )
        accepted = num_accepted_tokens.tolist()
        require(min(accepted, default=0) >= 0, UPDATE, f"accepted tokens {accepted}")
    result = torch.full_like(x, float("nan"))
    convolve(result, x, weight, conv_state, bias, activation is not None, bounds, blocks,
             [True] * sequences, accepted)  # fmt: skip
    target = x if out is None else out
    require_shape(UPDATE, "out", target, *x.shape)
    require_dtype(UPDATE, "out", target, x.dtype)
    target.copy_(result)
    return target


def _check(
    name: str,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    states: torch.Tensor,
    activation: str | None,
) -> None:
    require(activation in (None, "silu", "swish"), name, f"activation {activation}")
    require_shape(name, "x", x, None, None)
    dim = x.shape[1]
    require(dim > 0 and dim % DIM_ALIGNMENT == 0, name, f"dim {dim}: no multiple of 16")
    require_shape(name, "weight", weight, None, dim)
    require(2 <= len(weight) <= 4, name, f"width {len(weight)} is not 2 to 4")
    require_shape(name, "conv_states", states, None, None, dim)
    require(len(states) > 0 and states.shape[1] >= len(weight) - 1, name, "states are too short")
    strides = states.stride()
    require(strides[2] == 1 and min(strides) > 0, name, f"conv_states with strides {strides}")
    require_dtype(name, "x", x, *NARROW)
    require_dtype(name, "weight", weight, x.dtype)
    require_dtype(name, "conv_states", states, x.dtype)
    if bias is not None:
        require_shape(name, "bias", bias, dim)
        require_dtype(name, "bias", bias, x.dtype)


def _bounds(name: str, query_start_loc: torch.Tensor, tokens: int) -> list[int]:
    require_dtype(name, "query_start_loc", query_start_loc, torch.int32)
    require_shape(name, "query_start_loc", query_start_loc, None)
    bounds = query_start_loc.tolist()
    require(len(bounds) > 1, name, "no sequence: query_start_loc has fewer than 2 entries")
    require(
        bounds[0] == 0 and bounds[-1] <= tokens and bounds == sorted(bounds),
        name,
        f"query_start_loc {bounds} does not rise from 0 within the {tokens} tokens",
    )
    return bounds


def _blocks(
    name: str,
    indices: torch.Tensor | None,
    sequences: int,
    blocks: int,
    left_out: tuple[int, ...],
) -> list[int | None]:
    """The block of each sequence's state; None for padding."""
    if indices is None:
        require(blocks >= sequences, name, "no cache_indices, and fewer blocks than sequences")
        return list(range(sequences))
    require_dtype(name, "cache_indices", indices, torch.int32)
    require_shape(name, "cache_indices", indices, sequences)
    found = [None if index in left_out else index for index in indices.tolist()]
    require(
        all(index is None or 0 <= index < blocks for index in found),
        name,
        f"cache_indices {indices.tolist()} leave the {blocks} blocks",
    )
    return found
