# SPDX-License-Identifier: Apache-2.0
"""The chunked gated delta rule, whoever's kernels it is made of.

Each wing's ``chunk.py`` implements it, stage by stage in upstream's names and order:
``chunk_local_cumsum``, ``chunk_scaled_dot_kkt``, ``solve_tril``, ``wy_fast``, ``chunk_delta_h``,
``chunk_o``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata


class ChunkGatedDeltaRule(ABC):
    """The rule for layers of one shape: Hk heads of K columns, Hv of V; Hv a multiple of Hk.

    The layer has checked the contract before it calls this (``fla/gdn.py``): the tables are of this
    step, and fit the tensors.
    """

    @abstractmethod
    def __call__(
        self,
        qk: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        initial_state: torch.Tensor | None,
        out: torch.Tensor,
        chunk: GDNChunkedPrefillMetadata,
    ) -> torch.Tensor:
        """Apply the rule to N sequences of together T tokens.

        All tensors are on the model's device, ``v``, ``g`` and ``beta`` with a leading 1 where the
        platform's kernels take one.

        Args:
            qk: [2, T, Hk, K] in the model's dtype: queries and keys, on CUDA apart; value head h
                reads key head h // (Hv / Hk). Each vector of length 1, but on CPU, where the rule
                sees to that.
            v: [T, Hv, V], likewise.
            g: [T, Hv] float32: log decay, at most 0.
            beta: [T, Hv]: in 0..1.
            initial_state: [N, Hv, …], the platform's layout of K and V; None, where the platform
                allows it, if no sequence has any.
            out: [T, Hv, V], written.
            chunk: The step's tables. Required: nothing here can make one.

        Returns:
            The final state, laid out as ``initial_state``.
        """
