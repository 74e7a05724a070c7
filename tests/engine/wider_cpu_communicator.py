# SPDX-License-Identifier: Apache-2.0
"""vLLM's CPU communicator with gathers and scatters of unequal sizes, over gloo."""

from __future__ import annotations

import torch
import torch.distributed as dist
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator


class WiderCpuCommunicator(CpuCommunicator):
    """See ``wider_cpu_platform``. Rank r has ``sizes[r]`` rows."""

    def all_gatherv(self, input_, dim: int = 0, sizes: list[int] | None = None):
        if isinstance(input_, list):
            return [self.all_gatherv(each, dim, sizes) for each in input_]
        assert dim == 0 and sizes is not None
        padded = input_.new_zeros(max(sizes), *input_.shape[1:])
        padded[: len(input_)] = input_
        everyone = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(everyone, padded, group=self.device_group)
        return torch.cat([rows[:size] for rows, size in zip(everyone, sizes, strict=True)])

    def reduce_scatterv(self, input_, dim: int = -1, sizes: list[int] | None = None):
        assert dim == 0 and sizes is not None
        total = input_.clone()
        dist.all_reduce(total, group=self.device_group)
        return total.split(sizes)[self.rank_in_group].clone()
