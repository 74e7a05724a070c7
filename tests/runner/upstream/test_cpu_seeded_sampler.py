# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

from ascend_gdn.runner.upstream.cpu_seeded_sampler import SeededTopKTopPSampler

ROWS = 6


def draw(sampler: TopKTopPSampler, seeded_rows: list[int]) -> torch.Tensor:
    """[ROWS], from flat logits; the process's generator is another each time."""
    torch.manual_seed(len(seeded_rows))
    generators = {row: torch.Generator().manual_seed(100 + row) for row in seeded_rows}
    tokens, _ = sampler.forward_cpu(torch.zeros(ROWS, 500), generators, None, None)
    return tokens


@pytest.mark.parametrize("seeded_rows", [[0], [1, 4], [0, 1, 2, 3, 5]])
def test_a_seed_draws_the_same_whatever_the_other_rows_have(seeded_rows: list[int]):
    alone = draw(SeededTopKTopPSampler(), list(range(ROWS)))
    assert torch.equal(draw(SeededTopKTopPSampler(), seeded_rows)[seeded_rows], alone[seeded_rows])


def test_all_seeded_and_none_seeded_are_as_upstream():
    for rows in ([], list(range(ROWS))):
        assert torch.equal(draw(SeededTopKTopPSampler(), rows), draw(TopKTopPSampler(), rows))


def test_upstream_ignores_the_seed():
    # Fails when the correction can go.
    alone = draw(TopKTopPSampler(), list(range(ROWS)))
    assert not torch.equal(draw(TopKTopPSampler(), [1, 4])[[1, 4]], alone[[1, 4]])
