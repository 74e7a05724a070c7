# SPDX-License-Identifier: Apache-2.0
"""CPU: the GDN backend and builder, with the step's tables as indices for PyTorch kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.gdn_attn import GDNAttentionBackend

from ascend_gdn.attention.batch_split import BatchSplit
from ascend_gdn.attention.builder import StepGDNAttentionMetadataBuilder
from ascend_gdn.attention.cpu_layouts import ChunkLayout
from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.attention.step import GDNStep
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata
from ascend_gdn.attention.table_layout import CHUNK_SIZE


class SpecLayout:
    """The tokens of S requests that verify at most L each, T in all, as gather indices.

    Made when first read, for the layers of all KV cache groups.

    Args:
        query_start_loc: [S + 1] integer, on the CPU: where each request's tokens start; none is
            without.
    """

    def __init__(self, query_start_loc: torch.Tensor) -> None:
        self._query_start_loc = query_start_loc

    @cached_property
    def _ends(self) -> torch.Tensor:
        """[S, 1] int64"""
        return self._query_start_loc[1:, None].long()

    @cached_property
    def _places(self) -> torch.Tensor:
        """[S, L] int64: the token at each place, were the request that long."""
        starts = self._query_start_loc[:-1, None].long()
        return starts + torch.arange(int((self._ends - starts).max()))

    @cached_property
    def tokens(self) -> torch.Tensor:
        """[S, L] int64: the token at each place; a shorter request repeats its last one."""
        return self._places.minimum(self._ends - 1)

    @cached_property
    def used(self) -> torch.Tensor:
        """[S, L] bool: which places have a token of their own."""
        return self._places < self._ends

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


@dataclass(frozen=True, eq=False)
class CPUChunkedPrefillMetadata(GDNChunkedPrefillMetadata):
    """The contract's tables, on the CPU."""

    @cached_property
    def layout(self) -> ChunkLayout:
        """The tables as gather indices. Made at most once a step."""
        return ChunkLayout.from_tables(
            self.cu_seqlens, self.chunk_indices_chunk64, self.chunk_offsets_chunk64, CHUNK_SIZE
        )


@dataclass
class StepCPUGDNAttentionMetadata(StepGDNAttentionMetadata):
    """With what the kernels in PyTorch take."""

    spec_layout: SpecLayout | None = None
    """Of the requests that verify drafts; the same for all KV cache groups."""


class StepCPUGDNAttentionMetadataBuilder(StepGDNAttentionMetadataBuilder):
    """One builder for each KV cache group of GDN layers."""

    metadata_cls = StepCPUGDNAttentionMetadata
    chunk_cls = CPUChunkedPrefillMetadata

    def _shared_metadata(
        self, step: GDNStep, split: BatchSplit, common: CommonAttentionMetadata
    ) -> Any:
        metadata: Any = super()._shared_metadata(step, split, common)
        if split.spec is not None:
            starts = step.slot.rows("spec_query_start_loc", len(split.spec) + 1)
            metadata.spec_layout = SpecLayout(starts)
        return metadata


class StepCPUGDNAttentionBackend(GDNAttentionBackend):
    """vLLM's GDN backend with the step's builder."""

    @staticmethod
    def get_builder_cls() -> type[StepCPUGDNAttentionMetadataBuilder]:
        return StepCPUGDNAttentionMetadataBuilder
