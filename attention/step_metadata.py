# SPDX-License-Identifier: Apache-2.0
"""What a GDN layer finds in the forward context: vLLM's metadata, and what the step adds to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadata

from ascend_gdn.attention.metadata import (
    FOREIGN_BUILDER,
    GDNContractError,
    GDNPrefillFallbackMeta,
)
from ascend_gdn.fla.spec_layout import SpecLayout

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class StepGDNAttentionMetadata(GDNAttentionMetadata):
    """vLLM's GDN metadata of one KV cache group, with the contract's for the prefill."""

    non_spec_prefill_fallback_meta: GDNPrefillFallbackMeta | None = None
    """Set whenever ``num_prefills > 0``."""
    num_initial_states: int = 0
    """Prefills that go on from a state; the others start from zeros."""
    spec_first: bool = False
    """The speculative tokens come before all others, so that slices will do."""

    def __copy__(self) -> Self:
        # Each group of a step gets a copy; Python's own way takes three times as long.
        twin = object.__new__(type(self))
        twin.__dict__ = self.__dict__.copy()
        return twin

    @cached_property
    def spec_layout(self) -> SpecLayout:
        """The speculative requests' tokens, for the CPU's PyTorch kernels. Made once a group."""
        return SpecLayout.from_query_start_loc(
            self.spec_query_start_loc[: self.num_spec_decodes + 1]
        )


def require_step_metadata(metadata: object, *, layer: str) -> StepGDNAttentionMetadata:
    """Return what the forward context holds for ``layer``, if the step's builder made it.

    Raises:
        GDNContractError: another builder made it.
    """
    if not isinstance(metadata, StepGDNAttentionMetadata):
        raise GDNContractError(
            layer=layer,
            field="attn_metadata",
            found=type(metadata).__name__,
            expected=StepGDNAttentionMetadata.__name__,
            cause=FOREIGN_BUILDER,
        )
    return metadata
