# SPDX-License-Identifier: Apache-2.0
"""Some ranks of a context-parallel group as threads of one process, with collectives as strict as
a real group's: all ranks take part, in the same order, with tensors of one shape."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
import vllm.distributed.parallel_state as parallel_state
from vllm.forward_context import override_forward_context

END = "the end"


class InProcessGroup:
    """What ``get_pcp_group()`` gives: ``rank_in_group`` is that of the thread that asks."""

    def __init__(self, size: int) -> None:
        self.world_size = size
        self.gathered = 0
        """Collectives so far."""
        self._barrier = threading.Barrier(size, timeout=60)
        self._parts: list[object] = [None] * size
        self._thread = threading.local()

    @property
    def rank_in_group(self) -> int:
        return self._thread.rank

    @property
    def attn_metadata(self) -> object:
        """As a forward context."""
        return self._thread.attn_metadata

    @attn_metadata.setter
    def attn_metadata(self, value: object) -> None:
        self._thread.attn_metadata = value

    def all_gather(self, tensor: torch.Tensor, dim: int = -1) -> torch.Tensor:
        assert tensor.is_contiguous()
        parts = self._meet(tensor)
        assert all(isinstance(part, torch.Tensor) for part in parts), "a rank takes no part"
        kinds = {(part.shape, part.dtype) for part in parts}
        assert len(kinds) == 1, f"the ranks' tensors differ: {kinds}"
        if self.rank_in_group == 0:
            self.gathered += 1
        return torch.cat(parts, dim)

    def _meet(self, part: object) -> list[Any]:
        self._parts[self.rank_in_group] = part
        self._barrier.wait()
        parts = list(self._parts)
        self._barrier.wait()
        return parts

    def run(self, function: Callable[[int], Any]) -> list[Any]:
        """``function(rank)`` on every rank at once."""

        def on_rank(rank: int) -> Any:
            self._thread.rank = rank
            try:
                with torch.inference_mode():
                    result = function(rank)
                assert self._meet(END) == [END] * self.world_size, "a rank takes one part more"
                return result
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self.world_size) as pool:
            futures = [pool.submit(on_rank, rank) for rank in range(self.world_size)]
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in errors:  # not of those that were only let down
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        return [future.result() for future in futures]


@contextmanager
def ranks(size: int) -> Iterator[InProcessGroup]:
    """vLLM's context-parallel group, and its forward context, those of the threads of ``run``."""
    group, before = InProcessGroup(size), parallel_state._PCP
    parallel_state._PCP = group
    try:
        with override_forward_context(group):
            yield group
    finally:
        parallel_state._PCP = before
