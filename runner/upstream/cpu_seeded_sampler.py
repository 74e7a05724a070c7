# SPDX-License-Identifier: Apache-2.0
"""A seed has no effect on CPU beside a request without one.

``TopKTopPSampler.forward_cpu`` (v1/sample/ops/topk_topp_sampler.py:203) draws from the requests'
generators only if every row has one. Any greedy or unseeded request in the batch, and all rows are
drawn from the process's generator: the same request with the same seed gets other tokens.

Versions: vLLM 0.23.0; in 0.30.0 it draws a row that has a generator from it whatever the other rows
have. Delete with 0.23.0.
"""

from __future__ import annotations

import torch
from vllm.config.model import LogprobsMode
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

from ascend_gdn.runner.upstream.cpu_sampling import StepCPUSampler


class SeededTopKTopPSampler(TopKTopPSampler):
    """vLLM's; with any generator as on the platforms without a sampler of their own."""

    def forward_cpu(
        self,
        logits: torch.Tensor,
        generators: dict[int, torch.Generator],
        k: torch.Tensor | None,
        p: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        forward = self.forward_native if generators else super().forward_cpu
        return forward(logits, generators, k, p)


class SeededCPUSampler(StepCPUSampler):
    """The CPU's sampler with it."""

    def __init__(self, logprobs_mode: LogprobsMode, use_fp64_gumbel: bool) -> None:
        super().__init__(logprobs_mode, use_fp64_gumbel)
        self.topk_topp_sampler = SeededTopKTopPSampler(logprobs_mode, use_fp64_gumbel)
