# SPDX-License-Identifier: Apache-2.0
"""Gated DeltaNet prefill on CUDA by our own kernels, over the step's tables and the paged states.

Three launches a layer, the convolution's among them, where vLLM 0.23.0 has eight, and a gather, a
mask and a scatter of the states around them.
"""

from __future__ import annotations

import torch
import triton
from vllm.logger import init_logger

from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.attention.table_layout import CHUNK_SIZE
from ascend_gdn.fla.cuda.chunk_o import chunk_delta_h_o_kernel
from ascend_gdn.fla.cuda.conv import DeltaRuleInputs
from ascend_gdn.fla.cuda.launch import (
    BoundKernel,
    Grid,
    KernelDoesNotFitError,
    current_stream,
)
from ascend_gdn.fla.cuda.solve_tril import chunk_solve_kernel

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers

NARROW, WIDE = 64, 128
"""Columns of a value that a program of the recurrence takes. Two narrow ones do a chunk in 1.7 us
each on an H200, where there is room for all at once; one wide one in 2.7."""

STAGES = (3, 2, 1)
"""Chunks that the recurrence loads ahead, and this one: as many as the card's shared memory has
room for."""


class PagedChunkGatedDeltaRule:
    """The chunked rule for layers of one shape, its states read and written where they are kept.

    Args:
        key_heads: Heads of queries and keys a rank, Hk.
        value_heads: Heads of values a rank, Hv, a multiple of ``key_heads``.
        key_dim: Columns of a key, K.
        value_dim: Columns of a value, V.
        processors: The card's multiprocessors.
    """

    def __init__(
        self, key_heads: int, value_heads: int, key_dim: int, value_dim: int, processors: int
    ) -> None:
        self._heads, self._value_dim, self.processors = value_heads, value_dim, processors
        sizes = {
            "Hk": key_heads,
            "Hv": value_heads,
            "K": key_dim,
            "BLOCK_K": triton.next_power_of_2(key_dim),
            "CHUNK": CHUNK_SIZE,
        }
        self._solve = BoundKernel(
            chunk_solve_kernel, **sizes, LEVELS=CHUNK_SIZE.bit_length() - 1, num_warps=4
        )
        self._chunk_o = {
            columns: [
                BoundKernel(
                    chunk_delta_h_o_kernel,
                    **sizes,
                    V=value_dim,
                    BLOCK_V=columns,
                    STAGES=stages,
                    num_warps=columns // 16,
                )
                for stages in STAGES
            ]
            for columns in (NARROW, WIDE)
            if columns == NARROW or columns <= value_dim
        }

    def __call__(
        self,
        inputs: DeltaRuleInputs,
        states: torch.Tensor,
        out: torch.Tensor,
        chunk: GDNChunkedPrefillMetadata,
        blocks: torch.Tensor,
        has_initial_state: torch.Tensor,
    ) -> None:
        """Apply the rule to the step's N prefills.

        Args:
            inputs: In chunks.
            states: [blocks, Hv, V, K], each block contiguous; those of the prefills are updated.
            out: [T, Hv, V], contiguous, written.
            chunk: The step's tables.
            blocks: [N], where each prefill's state is.
            has_initial_state: [N] bool: whether it goes on from what is there.

        Raises:
            KernelDoesNotFitError: Compiled for the first time, a kernel does not fit the device.
        """
        q, k, v, g, beta = inputs
        heads, stream = self._heads, current_stream(q.device)
        chunks, programs = g.shape[0], chunk.num_seqs * heads
        decays = g.new_empty(2, *g.shape)
        from_start, to_end = decays.unbind()
        squares = q.new_empty(2, chunks, heads, CHUNK_SIZE, CHUNK_SIZE)
        solved, attention = squares.unbind()
        self._solve(
            (heads, chunks, 1), stream, q, k, g, beta, from_start, to_end, solved, attention
        )
        narrow = 2 * programs <= self.processors or WIDE not in self._chunk_o
        columns = NARROW if narrow else WIDE
        self._launch(
            columns, (-(-self._value_dim // columns), programs, 1), stream,
            q, k, v, from_start, to_end, solved, attention, out, states,
            blocks, has_initial_state, chunk.cu_seqlens,
            chunk.chunk_offsets_chunk64, states.stride(0),
        )  # fmt: skip

    def _launch(self, columns: int, grid: Grid, stream: int, *arguments: object) -> None:
        """Launch the recurrence, loading as far ahead as the card has room for."""
        kernels = self._chunk_o[columns]
        try:
            kernels[0](grid, stream, *arguments)
        except KernelDoesNotFitError as error:  # only where it is compiled anew
            if len(kernels) == 1:
                raise
            logger.info("ascend-gdn: %s: it loads fewer chunks ahead.", error.cause)
            del kernels[0]
            self._launch(columns, grid, stream, *arguments)
