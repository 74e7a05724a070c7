# SPDX-License-Identifier: Apache-2.0
"""Which token is which row of which chunk, from the tables that the kernels are given.

Every kernel looks up a chunk's sequence in ``cu_seqlens``: rows are ``(sequence, chunk of it)``. A
table that numbers sequences in another way, or leaves tokens out, makes the real kernels compute
something else in silence, or read past the end; here it raises.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .checks import require


@dataclass(frozen=True)
class ChunkRows:
    """``tokens`` int64 [chunks, size]; ``valid`` bool, as ``tokens``: where there is a token."""

    tokens: torch.Tensor
    valid: torch.Tensor

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """[tokens, ...] as [chunks, size, ...], with zeros where there is no token."""
        rows = tensor[self.tokens]
        return rows.masked_fill(~self.valid.view(*self.valid.shape, *[1] * (rows.dim() - 2)), 0)

    def scatter(self, rows: torch.Tensor, total: int) -> torch.Tensor:
        """The reverse of ``gather``; NaN at tokens that are in no chunk."""
        tensor = rows.new_full((total, *rows.shape[2:]), float("nan"))
        tensor[self.tokens[self.valid]] = rows[self.valid]
        return tensor


def chunk_rows(
    operator: str, table_name: str, cu_seqlens: torch.Tensor, table: torch.Tensor, size: int
) -> ChunkRows:
    """``cu_seqlens`` [sequences + 1], ``table`` [chunks, 2]; raises unless each token is in one."""
    require(cu_seqlens.dim() == 1, operator, "cu_seqlens is not 1-D")
    require(
        table.dim() == 2 and table.shape[1] == 2,
        operator,
        f"{table_name} is {list(table.shape)}, expected [chunks, 2]",
    )
    bounds = cu_seqlens.long()
    sequence, chunk = table.long().unbind(1)
    found = f"{table_name} {table.tolist()} against cu_seqlens {cu_seqlens.tolist()}"
    require(((sequence >= 0) & (sequence < len(bounds) - 1) & (chunk >= 0)).all(), operator, found)
    first = bounds[sequence] + chunk * size
    end = bounds[sequence + 1]
    require((first < end).all(), operator, f"a chunk without tokens: {found}")
    tokens = first[:, None] + torch.arange(size)
    valid = tokens < end[:, None]
    covered = tokens[valid]
    total = int(bounds[-1] - bounds[0])
    require(
        len(covered) == total and len(covered.unique()) == total,
        operator,
        f"not every token is in exactly one chunk: {found}",
    )
    return ChunkRows(tokens.masked_fill(~valid, 0), valid)
