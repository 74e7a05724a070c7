# SPDX-License-Identifier: Apache-2.0
"""Leaving states behind for the prefix cache, after a step that verified drafts: a Triton kernel.

``copy_after_step`` of :mod:`ascend_gdn.runner.upstream.cpu_align` is the same rule, on the host.
On the device nobody waits for how many tokens a request kept.

This module needs Triton and no vLLM: it runs where Triton can, tests run it in Triton's
interpreter, and ``make lowering`` lowers it for Ascend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

TILE = 1024
"""Elements that a program copies at once: 2 or 4 KiB."""


@dataclass(frozen=True)
class StateLayout:
    """How the states of every GDN layer lie in memory; strides in elements of the tensor.

    Recurrent states are copied as words of four bytes.
    """

    window_rows: int
    """Places of a convolution's window: W - 1 + K."""
    window_columns: int
    """Channels of the convolution."""
    window_bytes: int
    """Bytes an element: 2 or 4."""
    window_strides: tuple[int, int, int]
    """Of blocks, rows and columns."""
    recurrent_words: int
    """Of a recurrent state."""
    recurrent_stride: int
    """Of blocks, in words."""

    @staticmethod
    def of(windows: Sequence[torch.Tensor], recurrent: Sequence[torch.Tensor]) -> StateLayout:
        """The layout that all layers have.

        Args:
            windows: [blocks, W - 1 + K, conv_dim] a layer, any strides.
            recurrent: [blocks, ...] a layer; a block's state contiguous.

        Raises:
            ValueError: layers differ, or a tensor is none that the kernel can copy.
        """
        layouts = {_layout(*states) for states in zip(windows, recurrent, strict=True)}
        if len(layouts) != 1:
            raise ValueError(
                f"ascend-gdn: got GDN states in the layouts {layouts}, expected all layers alike: "
                "leave out --worker-cls, or switch prefix caching or speculative decoding off"
            )
        return layouts.pop()

    def launch(
        self,
        num_reqs: int,
        num_layers: int,
        block_size: int,
        table_stride: int,
        tables: Sequence[torch.Tensor],
    ) -> None:
        """Launch the kernel for ``num_reqs`` requests, in the current stream's order.

        Args:
            num_reqs: Requests of the step.
            num_layers: GDN layers of the rank.
            block_size: Tokens a block.
            table_stride: Of a block table's rows.
            tables: The kernel's pointers, in its order.
        """
        leave_states_kernel[(num_reqs, num_layers)](
            *tables,
            table_stride,
            *self.window_strides[:2],
            self.recurrent_stride,
            BLOCK_SIZE=block_size,
            ROWS=self.window_rows,
            COLUMNS=self.window_columns,
            COLUMN_STRIDE=self.window_strides[2],
            WINDOW_BYTES=self.window_bytes,
            WORDS=self.recurrent_words,
            TILE=TILE,
        )


def _layout(window: torch.Tensor, recurrent: torch.Tensor) -> StateLayout:
    state_bytes, stride_bytes = (
        number * recurrent.element_size() for number in (recurrent[0].numel(), recurrent.stride(0))
    )
    if window.element_size() not in (2, 4) or state_bytes % 4 or stride_bytes % 4:
        raise ValueError(
            f"ascend-gdn: got states of {window.dtype} and {recurrent.dtype}, "
            f"{stride_bytes} bytes apart, expected elements of 2 or 4 bytes and whole words: "
            "choose another --mamba-cache-dtype"
        )
    if not recurrent[0].is_contiguous():
        raise ValueError(
            f"ascend-gdn: got recurrent states with strides {recurrent.stride()}, expected each "
            "contiguous: leave out --worker-cls"
        )
    return StateLayout(
        window_rows=window.shape[1],
        window_columns=window.shape[2],
        window_bytes=window.element_size(),
        window_strides=window.stride(),
        recurrent_words=state_bytes // 4,
        recurrent_stride=stride_bytes // 4,
    )


@triton.jit
def leave_states_kernel(
    num_accepted,  # [requests] tokens that each kept of the step
    running_blocks,  # [requests] where in its row of the block table the step saved its states
    num_scheduled,  # [requests] tokens of the step, drafts included
    num_computed,  # [requests] tokens before it
    num_drafts,  # [requests]
    block_tables,  # [groups] int64: addresses of [requests, blocks] int32
    state_addresses,  # [layers, 2] int64: of the windows, and of the recurrent states
    state_groups,  # [layers, 2]: whose block table
    next_accepted,  # [requests] written: what the next step is to take for num_accepted
    table_stride,
    window_block_stride,
    window_row_stride,
    recurrent_stride,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
    WINDOW_BYTES: tl.constexpr,
    WORDS: tl.constexpr,
    TILE: tl.constexpr,
):
    """A program a request and layer."""
    request = tl.program_id(0)
    layer = tl.program_id(1)
    accepted = tl.load(num_accepted + request)
    running = tl.load(running_blocks + request)
    sure = tl.load(num_computed + request) + tl.load(num_scheduled + request)
    sure -= tl.load(num_drafts + request)
    filled = (sure + accepted - 1) // BLOCK_SIZE
    later = filled * BLOCK_SIZE - sure
    # Within the running block: the next step goes on from its first state.
    within = (later >= 0) & (filled - 1 == running)
    if layer == 0:
        tl.store(next_accepted + request, tl.where(within, 1, accepted))
    if (later > 0) | ((later == 0) & (filled - 1 != running)):
        group = tl.load(state_groups + 2 * layer)
        table = tl.load(block_tables + group).to(tl.pointer_type(tl.int32))
        table += request * table_stride
        source = tl.load(table + running).to(tl.int64)
        saved = tl.load(table + running + later).to(tl.int64)
        target = tl.load(table + filled - 1).to(tl.int64)
        WINDOW: tl.constexpr = tl.int16 if WINDOW_BYTES == 2 else tl.int32
        windows = tl.load(state_addresses + 2 * layer).to(tl.pointer_type(WINDOW))
        from_window = windows + source * window_block_stride + later * window_row_stride
        to_window = windows + target * window_block_stride
        for first in range(0, COLUMNS, TILE):
            column = first + tl.arange(0, TILE)
            # Within a block rows move to lower ones: each is read before another takes its place,
            # since they move one after the other, and none is written before it is read whole.
            for row in range(ROWS - later):
                place = row * window_row_stride + column * COLUMN_STRIDE
                values = tl.load(from_window + place, mask=column < COLUMNS)
                tl.debug_barrier()
                tl.store(to_window + place, values, mask=column < COLUMNS)
        states = tl.load(state_addresses + 2 * layer + 1).to(tl.pointer_type(tl.int32))
        from_state = states + saved * recurrent_stride
        to_state = states + target * recurrent_stride
        for first in range(0, WORDS, TILE):
            word = first + tl.arange(0, TILE)
            values = tl.load(from_state + word, mask=word < WORDS)
            tl.store(to_state + word, values, mask=word < WORDS)
