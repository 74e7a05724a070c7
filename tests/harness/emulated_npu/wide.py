# SPDX-License-Identifier: Apache-2.0
"""The chunked prefill one width up: float32 for bfloat16, float64 for float32.

vllm-ascend's ``ops/triton/fla/chunk.py`` (0.23.0.post1) refuses float32 activations, and rounds
what it hands to AscendC operators to bfloat16. Its code runs unmodified, on a ``torch`` of its own
in which the names of these two types mean the next wider ones.
"""

from __future__ import annotations

import types

import torch


class WideTorch(types.ModuleType):
    """The module ``torch`` but for two types."""

    bfloat16 = torch.float32
    float32 = torch.float64

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


def widen(module: types.ModuleType) -> None:
    """Replace the global name ``torch`` of ``module``."""
    module.torch = WideTorch("torch")
