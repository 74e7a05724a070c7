# SPDX-License-Identifier: Apache-2.0
"""``get_masked_input_and_mask`` of vllm-ascend: which rows of an embedding this rank has."""

from __future__ import annotations

import torch

from .checks import INTEGERS, require, require_contiguous, require_dtype


def get_masked_input_and_mask(
    input: torch.Tensor,
    org_vocab_start_index: int,
    org_vocab_end_index: int,
    num_org_vocab_padding: int,
    added_vocab_start_index: int,
    added_vocab_end_index: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of the tokens ``input``, 0 for another rank's, and whether they are another's.

    Checks: ``csrc/torch_binding.cpp`` (0.23.0.post1).
    """
    name = "get_masked_input_and_mask"
    require(input.dim() >= 1 and num_org_vocab_padding >= 0, name, "a negative size")
    order = (0, org_vocab_start_index, org_vocab_end_index, added_vocab_start_index)
    bounds = [*order, added_vocab_end_index]
    require(bounds == sorted(bounds), name, f"bounds {bounds} fall")
    require_dtype(name, "input", input, *INTEGERS)
    require_contiguous(name, input=input)
    original = (input >= org_vocab_start_index) & (input < org_vocab_end_index)
    added = (input >= added_vocab_start_index) & (input < added_vocab_end_index)
    size = org_vocab_end_index - org_vocab_start_index + num_org_vocab_padding
    row = torch.where(
        original, input - org_vocab_start_index, input - added_vocab_start_index + size
    )
    mine = original | added
    return row * mine, ~mine
