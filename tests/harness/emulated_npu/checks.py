# SPDX-License-Identifier: Apache-2.0
"""The checks that the emulated operators share."""

from __future__ import annotations

import os

import torch

WIDE = os.environ.get("EMULATED_NPU_WIDE") == "1"
"""Whether operators that take 16-bit floats take float32 in their place, and nothing else.

An NPU's operators of GDN know no float32 activations, and greedy tokens of a random model in
bfloat16 flip at near-ties. Wide, the same code computes in float32, and its answers can be compared
with those of Hugging Face transformers. See :mod:`.wide`.
"""
NARROW = (torch.float32,) if WIDE else (torch.bfloat16, torch.float16)
BFLOAT16 = (torch.float32,) if WIDE else (torch.bfloat16,)
INTEGERS = (torch.int32, torch.int64)


class OperatorError(RuntimeError):
    """An emulated operator got what the real one refuses, or would read out of bounds with."""


def require(condition: object, operator: str, message: str) -> None:
    if not condition:
        raise OperatorError(f"{operator}: {message}")


def require_dtype(operator: str, name: str, tensor: torch.Tensor, *dtypes: torch.dtype) -> None:
    require(tensor.dtype in dtypes, operator, f"{name} is {tensor.dtype}, expected one of {dtypes}")


def require_shape(operator: str, name: str, tensor: torch.Tensor, *shape: int | None) -> None:
    """``None`` stands for any size."""
    fits = tensor.dim() == len(shape) and all(
        expected is None or actual == expected
        for actual, expected in zip(tensor.shape, shape, strict=True)
    )
    require(fits, operator, f"{name} is {list(tensor.shape)}, expected {list(shape)}")


def require_contiguous(operator: str, **tensors: torch.Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None:
            strides = f"{name} is not contiguous: {list(tensor.shape)}, {tensor.stride()}"
            require(tensor.is_contiguous(), operator, strides)
