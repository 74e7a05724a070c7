# SPDX-License-Identifier: Apache-2.0
"""Drafts verified and drafted on CPU, against plain Python."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm.v1.sample.sampler import Sampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from ascend_gdn.runner.upstream.cpu_draft_kernels import CPUProposer, GreedyRejectionSampler

from .sampling import greedy

VOCABULARY, PAD = 11, -1


def expected_tokens(drafts: list[list[int]], logits: torch.Tensor) -> list[list[int]]:
    """Row by row: the likeliest token after each draft that was right, and no more."""
    rows, start = [], 0
    for row in drafts:
        likeliest = logits[start : start + len(row) + 1].argmax(-1).tolist()
        wrong = (place for place, token in enumerate(row) if token != likeliest[place])
        right = next(wrong, len(row))
        rows.append(likeliest[: right + 1])
        start += len(row) + 1
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_greedy_requests_keep_their_drafts_up_to_the_first_wrong_one(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, 6)
    lengths[0] = 3
    logits = torch.from_numpy(rng.standard_normal((int(lengths.sum()) + 6, VOCABULARY)))
    likeliest, drafts, start = logits.argmax(-1).tolist(), [], 0
    for length in lengths.tolist():
        wrong = rng.random(length) < 0.3
        own = likeliest[start : start + length]
        drafts.append([(t + w) % VOCABULARY for t, w in zip(own, wrong.tolist(), strict=True)])
        start += length + 1
    metadata = SpecDecodeMetadata.make_dummy(drafts, torch.device("cpu"))
    start = 0  # the dummy has no places
    for row, own in enumerate(drafts):
        metadata.bonus_logits_indices[row] = start + len(own)
        first = sum(map(len, drafts[:row]))
        metadata.target_logits_indices[first : first + len(own)] = start + torch.arange(len(own))
        start += len(own) + 1
    output = GreedyRejectionSampler(Sampler())(
        metadata, None, logits.float(), greedy(len(drafts), spec_token_ids=drafts)
    )
    found = [[token for token in row if token != PAD] for row in output.sampled_token_ids.tolist()]
    assert found == expected_tokens(drafts, logits)


@pytest.mark.parametrize("mrope", [False, True])
def test_the_next_draft_is_a_token_further(mrope):
    length, block = 20, 4
    proposer = object.__new__(CPUProposer)
    proposer.uses_mrope, proposer.max_model_len = mrope, length
    proposer.positions = torch.full((8,), 777)
    proposer.mrope_positions = torch.full((3, 8), 777)
    proposer._slot_mapping_buffer = torch.full((8,), 777)
    positions = torch.tensor([3, 9, length - 1])
    tables = torch.tensor([[5, 6, 7, 8, 9], [15, 16, 17, 18, 19], [1, 2, 3, 4, 0]]).int()
    common = SimpleNamespace(
        block_table_tensor=tables,
        seq_lens=torch.tensor([4, 10, 20]).int(),
        seq_lens_cpu_upper_bound=torch.tensor([4, 10, 20]).int(),
        slot_mapping=None,
        max_seq_len=20,
    )
    found = proposer._update_positions_dependent_metadata(
        positions.expand(3, 3) if mrope else positions, common, 3, 6, block
    )
    expected = [4, 10, 0]  # the last one has no room: it writes nowhere
    assert found.tolist() == ([expected] * 3 if mrope else expected)
    assert common.slot_mapping.tolist() == [6 * block, 17 * block + 2, PAD]
    assert proposer._slot_mapping_buffer.tolist() == [24, 70, PAD, PAD, PAD, PAD, 777, 777]
    assert common.seq_lens.tolist() == [5, 11, 1]
    assert common.seq_lens_cpu_upper_bound.tolist() == [5, 11, 21]
    assert common.max_seq_len == 20
