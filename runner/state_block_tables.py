# SPDX-License-Identifier: Apache-2.0
"""Block tables that nothing on the device reads: those of KV cache groups of GDN layers.

vLLM's runner copies each group's to the device at every step, and has a kernel make each token's
slot of it (``MultiGroupBlockTable`` in vllm/v1/worker/block_table.py, 0.23.0). A state has a block
and no slots, and all groups' blocks reach the device with the step's tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm.v1.worker.block_table import BlockTable, MultiGroupBlockTable


class StateBlockTable(BlockTable):
    """vLLM's, but for what a step does with it on the device."""

    def compute_slot_mapping(self, *args: Any, **kwargs: Any) -> None:
        """Leave the slots as they are."""

    def commit_block_table(self, num_reqs: int) -> None:
        """Leave the device's copy as it is."""


def keep_on_host(tables: MultiGroupBlockTable, groups: Iterable[int]) -> None:
    """Let the tables of ``groups``, which are empty yet, be such ones.

    Those of vLLM-Ascend's own class stay: its builder reads them on the device.
    """
    for group in groups:
        table = tables.block_tables[group]
        if type(table) is BlockTable and not table.use_hybrid_blocks:
            tables.block_tables[group] = StateBlockTable(
                table.block_size,
                table.max_num_reqs,
                table.max_num_blocks_per_req,
                table.max_num_batched_tokens,
                table.pin_memory,
                table.device,
                kernel_block_size=table.block_size,
                cp_kv_cache_interleave_size=table.cp_kv_cache_interleave_size,
            )
