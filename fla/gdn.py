# SPDX-License-Identifier: Apache-2.0
"""The GDN layer, whatever the platform: takes the step's metadata, checks it, walks the step.

The contract is checked here and nowhere else, before the first kernel: a step that is refused
leaves outputs and states as they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from vllm.forward_context import get_forward_context
from vllm.v1.utils import record_function_or_nullcontext

from ascend_gdn.attention.step_metadata import require_step_metadata

if TYPE_CHECKING:
    from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import (
        QwenGatedDeltaNetAttention as Base,
    )
else:
    Base = object


class Activations(NamedTuple):
    """The arguments of ``_forward_core``: those of a step's tokens, or of some of them."""

    mixed_qkv: torch.Tensor
    """[tokens, conv_dim]: packed q, k, v of the rank's heads."""
    b: torch.Tensor
    """[tokens, Hv]: before the sigmoid."""
    a: torch.Tensor
    """[tokens, Hv]: decay input."""
    out: torch.Tensor
    """[tokens, Hv, V], written."""

    def split(self, tokens: int) -> tuple[Activations, Activations]:
        """Views of the first so many tokens, and of the others."""
        mixed_qkv, b, a, out = self
        sizes = (tokens, mixed_qkv.shape[0] - tokens)
        mixed_qkv, others = mixed_qkv.split_with_sizes(sizes)
        b, others_b = b.split_with_sizes(sizes, -2)
        a, others_a = a.split_with_sizes(sizes, -2)
        out, others_out = out.split_with_sizes(sizes)
        return (
            Activations(mixed_qkv, b, a, out),
            Activations(others, others_b, others_a, others_out),
        )


class StepGatedDeltaNetMixin(Base):
    """Put it before the platform's GDN layer in the bases.

    A platform adds :meth:`_spec` and :meth:`_non_spec`. The latter gets decodes and prefills at
    once: one convolution does for both.
    """

    def _forward_core(
        self,
        mixed_qkv: torch.Tensor,
        b: torch.Tensor,
        a: torch.Tensor,
        core_attn_out: torch.Tensor,
    ) -> None:
        """Convolution and delta rule of one step, of the arguments that :class:`Activations` names.

        Rows past the step's tokens are not written.

        Raises:
            GDNContractError: see ``require_step_metadata``.
        """
        attn_metadata = get_forward_context().attn_metadata
        if attn_metadata is None:  # vLLM's profile run, or a data-parallel rank without requests
            self._without_metadata(mixed_qkv, b, a, core_attn_out)
            return
        metadata: Any = attn_metadata[self.prefix]
        if self._is_upstreams(metadata):
            super()._forward_core(mixed_qkv, b, a, core_attn_out)
            return
        require_step_metadata(metadata, layer=self.prefix, num_tokens=mixed_qkv.shape[0])
        x = Activations(mixed_qkv, b, a, core_attn_out)
        if metadata.verified is None:
            with record_function_or_nullcontext("gdn.layer"):
                self._walk(x, metadata)
            return
        with metadata.verified.watch(self.prefix, core_attn_out[metadata.num_tokens :]):
            self._walk(x, metadata)

    def _walk(self, x: Activations, metadata: Any) -> None:
        """Run the step's parts."""
        tokens, spec = metadata.num_tokens, metadata.num_spec_decode_tokens
        if x.out.shape[0] > tokens:  # padded
            x, _ = x.split(tokens)
        x = self._gated(x)
        if spec == 0:
            self._non_spec(x, metadata)
        elif spec == tokens:
            self._spec(x, metadata)
        elif metadata.spec_first:
            verifying, others = x.split(spec)
            self._spec(verifying, metadata)
            self._non_spec(others, metadata)
        else:
            for indices, forward in (
                (metadata.spec_token_indx, self._spec),
                (metadata.non_spec_token_indx, self._non_spec),
            ):
                out = x.out.new_empty(indices.shape[0], *x.out.shape[1:])
                own_x, own_b, own_a = (t.index_select(-2, indices) for t in x[:3])
                forward(Activations(own_x, own_b, own_a, out), metadata)
                x.out[indices] = out

    def _without_metadata(self, *arguments: torch.Tensor) -> None:
        """The same in a run that has no step; nothing is read of ``core_attn_out``."""

    def _is_upstreams(self, metadata: object) -> bool:
        """Whether the step is run by the layer that this one builds on."""
        return False

    def _gated(self, x: Activations) -> Activations:
        """``x``; or with beta and g, [1, tokens, Hv], for ``b`` and ``a``, made of all at once."""
        return x

    def _spec(self, x: Activations, metadata: Any) -> None:
        """Requests that verify drafts."""
        raise NotImplementedError

    def _non_spec(self, x: Activations, metadata: Any) -> None:
        """All others: decodes first, then prefills."""
        raise NotImplementedError
