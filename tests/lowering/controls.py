# SPDX-License-Identifier: Apache-2.0
"""Kernels that must not lower, each for a reason of its own, so that the check can fail."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def too_much_memory(out, values, SIZE: tl.constexpr):
    """A 910B core has 192 KiB of unified buffer."""
    offsets = tl.arange(0, SIZE)
    tl.store(out + offsets, tl.load(values + offsets) + 1)


@triton.jit
def weaker_options_needed(out, values, SIZE: tl.constexpr):
    """Fits once, but not twice, as overlapping the loop's copies with its work would take."""
    for tile in range(4):
        offsets = tile * SIZE + tl.arange(0, SIZE)
        tl.store(out + offsets, tl.load(values + offsets) + 1)


@triton.jit
def two_strided_stores(out, rows, SIZE: tl.constexpr):
    """The columns of a [rows, 2] table one after the other."""
    row = tl.arange(0, SIZE)
    tl.store(out + 2 * row, row, mask=row < rows)
    tl.store(out + 2 * row + 1, row, mask=row < rows)


@triton.jit
def missing_library_call(out, values, SIZE: tl.constexpr):
    offsets = tl.arange(0, SIZE)
    tl.store(out, tl.argmax(tl.load(values + offsets), 0))


@triton.jit
def vector_division(out, values, SIZE: tl.constexpr):
    """Lowers, but by way of float32: wrong from 2**24 on."""
    offsets = tl.arange(0, SIZE)
    tl.store(out + offsets, tl.load(values + offsets) // 19)
