# SPDX-License-Identifier: Apache-2.0
"""The tokens that speculative requests verify, as gather indices."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class SpecLayout:
    """S requests of at most L tokens each, T in all, none without tokens."""

    tokens: torch.Tensor
    """[S, L] int64: the token at each place; a shorter request repeats its last one."""
    used: torch.Tensor
    """[S, L] bool: which places have a token of their own."""

    @staticmethod
    def from_query_start_loc(query_start_loc: torch.Tensor) -> SpecLayout:
        """Make it for ``query_start_loc`` [S + 1] integer, on CPU."""
        starts, ends = query_start_loc[:-1, None].long(), query_start_loc[1:, None].long()
        steps = torch.arange(int((ends - starts).max()))
        tokens = starts + steps
        return SpecLayout(tokens.minimum(ends - 1), tokens < ends)

    @property
    def num_seqs(self) -> int:
        return self.tokens.shape[0]

    @property
    def longest(self) -> int:
        """L"""
        return self.tokens.shape[1]

    def by_request(self, x: torch.Tensor) -> torch.Tensor:
        """Gather ``x`` [T, ...] into [S, L, ...]."""
        return x[self.tokens]

    def by_token(self, x: torch.Tensor) -> torch.Tensor:
        """Put ``x`` [S, L, ...] in the order of the tokens: [T, ...]."""
        return x[self.used]
