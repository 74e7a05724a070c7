# SPDX-License-Identifier: Apache-2.0
"""Speculative requests of unequal lengths, as vLLM-Ascend's recurrent operator takes them.

``npu_recurrent_gated_delta_rule`` (vllm-ascend 0.23.0, csrc/attention/recurrent_gated_delta_rule,
op_kernel) counts its state indices by token, and starts a request at one of its own tokens' states.
A table of num_spec + 1 blocks a request fits only while every request has as many tokens; and a
request that kept more tokens of its last step than it has now starts at a state that no token of
its own has: there the operator stops, and leaves its core's other requests undone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class RaggedSpecRows:
    """S requests with T tokens in all."""

    state_indices: np.ndarray
    """[T] int32: block of the state after each token."""
    num_accepted_tokens: np.ndarray
    """[S] int32: which of its tokens' states a request starts from, counted from 1."""
    moved_from: np.ndarray
    """[M] int64: blocks whose state must be copied first, ..."""
    moved_to: np.ndarray
    """[M] int64: ... and where to: the first block of the request, whose state is not needed."""


def ragged_spec_rows(
    blocks: np.ndarray, lengths: np.ndarray, num_accepted_tokens: np.ndarray
) -> RaggedSpecRows:
    """Return the operator's arguments.

    Args:
        blocks: [S, num_spec + 1] int32, state blocks of each request.
        lengths: [S] int32, tokens of each request, from 1 to num_spec + 1.
        num_accepted_tokens: [S] int32, tokens that each request kept of its last step.
    """
    beyond = num_accepted_tokens > lengths
    moved = blocks[beyond]
    return RaggedSpecRows(
        state_indices=blocks[np.arange(blocks.shape[1]) < lengths[:, None]],
        num_accepted_tokens=np.where(beyond, 1, num_accepted_tokens).astype(np.int32),
        moved_from=moved[np.arange(len(moved)), num_accepted_tokens[beyond] - 1].astype(np.int64),
        moved_to=moved[:, 0].astype(np.int64),
    )
