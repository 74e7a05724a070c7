# SPDX-License-Identifier: Apache-2.0
"""What a GDN layer finds in the forward context: vLLM's metadata, and what the step adds to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadata

from ascend_gdn.attention.errors import FOREIGN_BUILDER, GDNContractError
from ascend_gdn.attention.metadata import GDNPrefillFallbackMeta, require_prefill_meta

if TYPE_CHECKING:
    from typing_extensions import Self

    from ascend_gdn.attention.verified_step import VerifiedStep


@dataclass
class StepGDNAttentionMetadata(GDNAttentionMetadata):
    """vLLM's GDN metadata of one KV cache group, with the contract's for the prefill."""

    non_spec_prefill_fallback_meta: GDNPrefillFallbackMeta | None = None
    """Set whenever ``num_prefills > 0``."""
    num_initial_states: int = 0
    """Prefills that go on from a state; the others start from zeros."""
    spec_first: bool = False
    """The speculative tokens come before all others, so that slices will do."""
    verified: VerifiedStep | None = None
    """Set in verify mode: what watches over the layers."""

    def copy(self) -> Self:
        """A shallow copy: each group of a step gets one."""
        # As copy.copy, in a quarter of its time.
        twin = object.__new__(type(self))
        twin.__dict__ = self.__dict__.copy()
        return twin

    @property
    def num_tokens(self) -> int:
        """Of all requests, without padding."""
        return self.num_spec_decode_tokens + self.num_decode_tokens + self.num_prefill_tokens


def require_step_metadata(
    metadata: object, *, layer: str, num_tokens: int
) -> StepGDNAttentionMetadata:
    """Return what the forward context holds for ``layer``, after checking the whole contract.

    A layer calls it before its first kernel: a step that is refused leaves every state as it was.

    Args:
        metadata: What the forward context holds.
        layer: Name of the layer that asks.
        num_tokens: Rows of the layer's tensors: the step's tokens, and padding.

    Raises:
        GDNContractError: another builder made it; or its prefill's is missing, of an earlier step,
            or of another batch.
    """
    if not isinstance(metadata, StepGDNAttentionMetadata):
        raise GDNContractError(
            layer=layer,
            field="attn_metadata",
            found=type(metadata).__name__,
            expected=StepGDNAttentionMetadata.__name__,
            cause=FOREIGN_BUILDER,
        )
    if metadata.num_tokens > num_tokens:
        raise GDNContractError(
            layer=layer,
            field="attn_metadata.num_actual_tokens",
            found=f"{metadata.num_tokens} tokens of requests",
            expected=f"at most {num_tokens}, the rows of the layer's tensors",
            cause="metadata of another batch than the one that the model was given",
        )
    meta = metadata.non_spec_prefill_fallback_meta
    if metadata.num_prefills > 0 or meta is not None:
        require_prefill_meta(
            meta,
            layer=layer,
            num_tokens=metadata.num_prefill_tokens,
            num_seqs=metadata.num_prefills,
        )
    return metadata
