# SPDX-License-Identifier: Apache-2.0
"""``recurrent_gated_delta_rule`` of ``fla_npu.ops.ascendc``.

Signature: ``torch_custom/fla_npu/fla_npu/ops/ascendc/_stable.py`` of
flashserve/flash-linear-attention-npu. Checks: ``docs/api.md`` and ``op_host`` of
``fla/ops/ascendc/gdn/recurrent_gdn/recurrent_gated_delta_rule`` there.
"""

from __future__ import annotations

import torch

from .checks import require
from .ops_recurrent import recurrence

NAME = "recurrent_gated_delta_rule"
LONGEST = 8


def recurrent_gated_delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    state: torch.Tensor,
    *,
    beta: torch.Tensor,
    scale: float = 1.0,
    actual_seq_lengths: torch.Tensor,
    ssm_state_indices: torch.Tensor,
    num_accepted_tokens: torch.Tensor | None = None,
    g: torch.Tensor | None = None,
    gk: torch.Tensor | None = None,
) -> torch.Tensor:
    """As ``npu_recurrent_gated_delta_rule``, up to 8 tokens of each sequence.

    The blocks of ``state`` need not follow each other closely.
    """
    require(g is not None, NAME, "without g it is not emulated")
    require(state[0].is_contiguous(), NAME, f"states with strides {state.stride()}")
    return recurrence(
        NAME, LONGEST, query, key, value, state, beta, scale, actual_seq_lengths,
        ssm_state_indices, num_accepted_tokens, g, gk,
    )  # fmt: skip
