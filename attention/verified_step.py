# SPDX-License-Identifier: Apache-2.0
"""Verify mode, around the layers of a step whose tables were found right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.pool import Slot

_MARK = 12288.0  # exact in every dtype of activations


@dataclass(frozen=True)
class VerifiedStep:
    """A step whose tables were right when they were sent."""

    slot: Slot
    tables: torch.Tensor
    """A copy of the slot's device buffer."""

    @contextmanager
    def watch(self, layer: str, padding: torch.Tensor) -> Iterator[None]:
        """Around a layer's forward: the tables are still the step's, and ``padding`` ([rows, Hv, V]
        of the layer's output, past the step's tokens) is not written.

        Raises:
            GDNContractError: One of them does not hold.
        """
        if not torch.equal(self.slot.device_buffer[: len(self.tables)], self.tables):
            raise GDNContractError(
                layer=layer,
                field="StepBufferPool",
                found="other tables on the device than the step's",
                expected="those that were sent for it",
                cause="its slot was written again while the step ran",
            )
        before = padding.clone()
        padding.fill_(_MARK)
        yield
        written = (padding != _MARK).flatten(1).any(1).nonzero()
        padding.copy_(before)
        if len(written):
            raise GDNContractError(
                layer=layer,
                field="core_attn_out",
                found=f"padded row {int(written[0])} past the step's tokens written",
                expected="rows of the step's tokens only",
                cause="a kernel that takes padding for tokens",
            )
