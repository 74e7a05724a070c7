# SPDX-License-Identifier: Apache-2.0
"""Prompts in pieces, whatever the token budgets of the steps, answer as they do in one step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ascend_gdn.fla.cpu.causal_conv1d import causal_conv1d_fn
from ascend_gdn.fla.cpu.chunk import CPUChunkGatedDeltaRule

from .reference import make_chunk, relative_error

HEADS, DIM, WIDTH = 2, 16, 4
CONV_DIM = 3 * HEADS * DIM


@dataclass
class Layer:
    """A GDN layer's prefill from the convolution on, with a cache of twice the blocks it needs."""

    num_seqs: int
    generator: torch.Generator
    weight: torch.Tensor = field(init=False)
    conv_states: torch.Tensor = field(init=False)
    ssm_states: torch.Tensor = field(init=False)
    blocks: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.weight = torch.randn(CONV_DIM, WIDTH, generator=self.generator)
        self.blocks = torch.randperm(2 * self.num_seqs, generator=self.generator).int()
        self.forget()

    def forget(self) -> None:
        nan = float("nan")  # No one may read a block before its sequence has written it.
        self.conv_states = torch.full((2 * self.num_seqs, CONV_DIM, WIDTH - 1), nan)
        self.ssm_states = torch.full((2 * self.num_seqs, HEADS, DIM, DIM), nan)

    def prefill(
        self,
        seqs: list[int],
        lengths: list[int],
        has_state: list[bool],
        x: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
    ) -> torch.Tensor:
        """One step: tokens of ``seqs``, packed; returns [tokens, HEADS, DIM]."""
        chunk, blocks = make_chunk(lengths), self.blocks[seqs]
        has_initial_state = torch.tensor(has_state)
        mixed = causal_conv1d_fn(
            x,
            self.weight,
            None,
            activation="silu",
            conv_states=self.conv_states,
            cache_indices=blocks,
            has_initial_state=has_initial_state,
            layout=chunk.layout,
        )
        qkv = mixed.view(-1, 3, HEADS, DIM).transpose(0, 1)
        initial_state = self.ssm_states[blocks.long()]
        initial_state.masked_fill_(~has_initial_state.view(-1, 1, 1, 1), 0.0)
        out = torch.full_like(qkv[2], float("nan"))
        final_state = CPUChunkGatedDeltaRule(DIM**-0.5)(
            qkv[:2], qkv[2], g, beta, initial_state, out, chunk
        )
        self.ssm_states[blocks.long()] = final_state
        return out


def steps_of(lengths: list[int], budgets: Iterator[int]) -> Iterator[list[tuple[int, int]]]:
    """What the scheduler gives each step, first come first served: (sequence, tokens)."""
    left = list(lengths)
    while any(left):
        budget, step = next(budgets), []
        for seq, tokens in enumerate(left):
            if take := min(tokens, budget):
                step.append((seq, take))
                left[seq] -= take
                budget -= take
        yield step


@given(
    lengths=st.lists(
        st.one_of(st.integers(1, 260), st.sampled_from([1, 64, 65])), min_size=1, max_size=4
    ),
    budgets=st.lists(
        st.one_of(st.integers(1, 300), st.sampled_from([1, 2, 63, 64, 65])), min_size=1, max_size=4
    ),
    seed=st.integers(0, 1000),
)
@example(lengths=[260, 1, 65], budgets=[64], seed=0)
@example(lengths=[130], budgets=[1], seed=1)
def test_pieces_equal_the_whole(lengths: list[int], budgets: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = Layer(len(lengths), generator)
    xs = [torch.randn(length, CONV_DIM, generator=generator) for length in lengths]
    gs = [-torch.rand(length, HEADS, generator=generator) for length in lengths]
    betas = [torch.rand(length, HEADS, generator=generator) for length in lengths]
    seqs = list(range(len(lengths)))

    whole = layer.prefill(
        seqs, lengths, [False] * len(lengths), torch.cat(xs), torch.cat(gs), torch.cat(betas)
    ).split(lengths)
    conv_states, ssm_states = layer.conv_states, layer.ssm_states

    layer.forget()
    done = [0] * len(lengths)
    pieces: list[list[torch.Tensor]] = [[] for _ in lengths]
    for step in steps_of(lengths, cycle(budgets)):
        taken = [slice(done[seq], done[seq] + tokens) for seq, tokens in step]
        parts = [
            torch.cat([every[seq][part] for (seq, _), part in zip(step, taken, strict=True)])
            for every in (xs, gs, betas)
        ]
        counts = [tokens for _, tokens in step]
        out = layer.prefill(
            [seq for seq, _ in step], counts, [done[seq] > 0 for seq, _ in step], *parts
        )
        for (seq, tokens), piece in zip(step, out.split(counts), strict=True):
            pieces[seq].append(piece)
            done[seq] += tokens

    for seq in seqs:
        assert relative_error(torch.cat(pieces[seq]), whole[seq], floor=0.05) < 2e-5
        block = layer.blocks[seq]
        assert torch.equal(layer.conv_states[block], conv_states[block])
        assert relative_error(layer.ssm_states[block], ssm_states[block], floor=0.05) < 2e-5
