# SPDX-License-Identifier: Apache-2.0
"""What a rank computes under prefill context parallelism, against running it twice."""

from __future__ import annotations

import torch

from emulated_npu.checks import NARROW
from emulated_npu.triton_context_parallel import (
    chunk_gated_delta_rule_fwd_h,
    chunk_gated_delta_rule_fwd_hupdate,
)

from .test_chunked import DIM, HEADS, KEY_HEADS, bounds_of, table

LENGTHS = (130, 0, 65)


def test_update_matrix_is_what_becomes_of_a_state():
    """The final state is affine in the initial one, with that matrix; without tokens it stays."""
    torch.manual_seed(0)
    bounds = bounds_of(*LENGTHS)
    shape = (1, bounds[-1])
    key = torch.nn.functional.normalize(torch.randn(*shape, KEY_HEADS, DIM), dim=-1)
    inputs = {
        "k": key.to(NARROW[0]),
        "w": (0.1 * torch.randn(*shape, HEADS, DIM)).to(NARROW[0]),
        "u": torch.randn(*shape, HEADS, DIM).to(NARROW[0]),
        "g": -torch.rand(*shape, HEADS).cumsum(1) / 64,
        "cu_seqlens": torch.tensor(bounds, dtype=torch.int32),
        "chunk_indices": table(bounds, 64),
        "chunk_offsets": torch.tensor([0, 3, 3, 5]),
    }
    matrices = chunk_gated_delta_rule_fwd_hupdate(
        **inputs, update_chunk_offsets=torch.tensor([0, 4, 5, 8])
    )[0, [3, 4, 7]]

    def final(state: torch.Tensor) -> torch.Tensor:
        return chunk_gated_delta_rule_fwd_h(**inputs, initial_state=state, output_final_state=True)[
            2
        ]

    states = torch.randn(len(LENGTHS), HEADS, DIM, DIM)
    zeros = final(torch.zeros_like(states))
    torch.testing.assert_close(final(states), zeros + matrices @ states, rtol=1e-3, atol=1e-3)
    assert torch.equal(final(states)[1], states[1])
