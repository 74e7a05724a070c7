# SPDX-License-Identifier: Apache-2.0
"""Prefills of one layer: what our kernels make of them, and a plain reference in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn.functional import softplus

from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.fla.cuda.chunk import PagedChunkGatedDeltaRule
from ascend_gdn.fla.cuda.conv import CausalConv1dSplit
from ascend_gdn.fla.gdn import Activations

WIDTH = 4
NAN = float("nan")


@dataclass(frozen=True)
class Case:
    name: str
    lengths: list[int]
    heads: tuple[int, int] = (1, 2)
    dims: tuple[int, int] = (64, 64)
    dtype: str = "float16"
    state_dtype: str = "float32"
    a: float | None = None
    """Decay input of all tokens, else random; 10 gives a log decay of about -50, -40 one of 0."""
    b: float | None = None
    """Before the sigmoid, likewise."""
    has_bias: bool = False
    same_keys: bool = False
    nan_in: int | None = None
    """The sequence whose inputs are NaN."""


def tables(lengths: list[int], device: torch.device) -> GDNChunkedPrefillMetadata:
    """By plain loops; an empty sequence has no chunk."""
    chunks = [-(-length // 64) for length in lengths]
    rows = [(seq, chunk) for seq, count in enumerate(chunks) for chunk in range(count)]
    starts = np.cumsum([0, *lengths], dtype=np.int32)
    offsets = np.cumsum([0, *chunks], dtype=np.int32)
    indices = np.array(rows, np.int32)
    cu_seqlens, on_device, rows_on_device = (
        torch.from_numpy(table).to(device) for table in (starts, offsets, indices)
    )
    unread = on_device, on_device[1:], rows_on_device, rows_on_device
    return GDNChunkedPrefillMetadata(
        cu_seqlens, rows_on_device, on_device, *unread, starts, indices
    )


class Prefills:
    """The arguments of a layer's prefill, always the same for a case.

    Every second sequence goes on from a state; the blocks of the others, and those of nobody, hold
    NaN.
    """

    def __init__(self, case: Case, device: torch.device) -> None:
        random = torch.Generator().manual_seed(0)
        dtype, seqs, tokens = getattr(torch, case.dtype), len(case.lengths), sum(case.lengths)
        (self.key_heads, heads), (self.key_dim, value_dim) = case.heads, case.dims
        self.heads, self.value_dim = heads, value_dim
        conv_dim = 2 * self.key_heads * self.key_dim + heads * value_dim

        def tensor(*shape: int, scale: float = 1.0, kind: torch.dtype = dtype) -> torch.Tensor:
            return (torch.randn(*shape, generator=random) * scale).to(kind).to(device)

        self.case, self.device = case, device
        mixed_qkv = tensor(tokens, conv_dim)
        if case.same_keys:
            mixed_qkv[:] = mixed_qkv[0].clone()
        if case.nan_in is not None:
            start = sum(case.lengths[: case.nan_in])
            mixed_qkv[start : start + case.lengths[case.nan_in]] = NAN
        a, b = (
            tensor(tokens, heads) if value is None else mixed_qkv.new_full((tokens, heads), value)
            for value in (case.a, case.b)
        )
        self.x = Activations(mixed_qkv, b, a, mixed_qkv.new_full((tokens, heads, value_dim), NAN))
        self.weight = tensor(conv_dim, 1, WIDTH, scale=0.3)
        self.bias = tensor(conv_dim, scale=0.3) if case.has_bias else None
        self.A_log = torch.full((heads,), 5.0, device=device).log()
        self.dt_bias = tensor(heads, scale=0.1, kind=torch.float32)
        self.blocks = (torch.randperm(seqs + 2, generator=random)[:seqs] + 1).to(device)
        self.has_initial_state = (torch.arange(seqs) % 2 == 0).to(device)
        self.conv_states = tensor(seqs + 3, WIDTH, conv_dim, scale=0.3).transpose(1, 2)
        kind = getattr(torch, case.state_dtype)
        self.states = tensor(seqs + 3, heads, value_dim, self.key_dim, scale=0.1, kind=kind)
        unread = torch.ones(seqs + 3, dtype=torch.bool)
        unread[self.blocks[self.has_initial_state].cpu()] = False
        self.conv_states[unread], self.states[unread] = NAN, NAN

    def kernels(self, processors: int) -> tuple[CausalConv1dSplit, PagedChunkGatedDeltaRule]:
        sizes = self.key_heads, self.heads, self.key_dim, self.value_dim
        conv = CausalConv1dSplit(*sizes, WIDTH, "silu", has_bias=self.case.has_bias, in_chunks=True)
        return conv, PagedChunkGatedDeltaRule(*sizes, processors)

    def run(self, processors: int) -> SimpleNamespace:
        """What our kernels leave. Few ``processors`` make the recurrence take wide programs."""
        conv, rule = self.kernels(processors)
        conv_states, states = self.conv_states.clone(), self.states.clone()
        given = tables(self.case.lengths, self.device), self.blocks, self.has_initial_state
        inputs = conv(self.x, self.weight, self.bias, self.A_log, self.dt_bias, conv_states, *given)
        rule(inputs, states, self.x.out, *given)
        return SimpleNamespace(
            out=self.x.out, conv_states=conv_states, states=states, **inputs._asdict()
        )

    @cached_property
    def reference(self) -> SimpleNamespace:
        """The same in float64, token by token, by vLLM's formulas."""
        lengths, (key_dim, value_dim) = self.case.lengths, self.case.dims
        keys = self.key_heads * key_dim
        conv_states, states = self.conv_states.double(), self.states.double()
        x, b, a, _ = (part.double() for part in self.x)
        weight = self.weight.double()[:, 0]
        decays = -self.A_log.double().exp() * softplus(a + self.dt_bias.double())
        betas, outs, start = b.sigmoid(), [], 0
        for seq, length in enumerate(lengths):
            own = slice(start, start + length)
            start += length
            block, goes_on = int(self.blocks[seq]), bool(self.has_initial_state[seq])
            if length == 0:
                continue
            past = conv_states[block, :, : WIDTH - 1] if goes_on else x.new_zeros(x.shape[1], 3)
            padded = torch.cat([past, x[own].T], 1)
            conv_states[block, :, : WIDTH - 1] = padded[:, length:]
            mixed = sum(
                padded[:, tap : tap + length] * weight[:, tap, None] for tap in range(WIDTH)
            )
            if self.bias is not None:
                mixed = mixed + self.bias.double()[:, None]
            mixed = (mixed * mixed.sigmoid()).T
            q, k = (
                part / (part.square().sum(-1, keepdim=True) + 1e-6).sqrt()
                for part in mixed[:, : 2 * keys].reshape(length, 2, self.key_heads, -1).unbind(1)
            )
            q, k = (part.repeat_interleave(self.heads // self.key_heads, 1) for part in (q, k))
            v = mixed[:, 2 * keys :].reshape(length, self.heads, value_dim)
            state = states[block] if goes_on else states.new_zeros(states[0].shape)
            for t in range(length):
                state = state * decays[own][t].exp()[:, None, None]
                new = v[t] - torch.einsum("hvk,hk->hv", state, k[t])
                state = state + (betas[own][t][:, None] * new)[:, :, None] * k[t][:, None]
                outs.append(torch.einsum("hvk,hk->hv", state, q[t]) * key_dim**-0.5)
            states[block] = state
        return SimpleNamespace(out=torch.stack(outs), conv_states=conv_states, states=states)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Of norms; to 1e-3 where all is forgotten, and what is expected next to nothing."""
    found, expected = found.cpu().double(), expected.cpu().double()
    return float((found - expected).norm() / max(expected.norm(), 1e-3))


def errors(prefills: Prefills, found: SimpleNamespace) -> tuple[float, float]:
    """Relative errors of outputs and states, after checking all that must be exact.

    The sequence that is NaN is NaN, and left out.
    """
    case, expected = prefills.case, prefills.reference
    touched = prefills.blocks.cpu()[torch.tensor(case.lengths) > 0].tolist()
    tokens = torch.ones(len(expected.out), dtype=torch.bool)
    if case.nan_in is not None:
        start = sum(case.lengths[: case.nan_in])
        tokens[start : start + case.lengths[case.nan_in]] = False
        touched.remove(int(prefills.blocks[case.nan_in]))
    else:
        others = [block for block in range(len(found.states)) if block not in touched]
        for after, before in (
            (found.states, prefills.states),
            (found.conv_states, prefills.conv_states),
        ):
            assert torch.equal(bits(after[others]), bits(before[others]))
    assert torch.equal(
        found.conv_states[touched].cpu().double()[..., : WIDTH - 1],
        expected.conv_states[touched].cpu()[..., : WIDTH - 1],
    )
    return (
        relative_error(found.out.cpu()[tokens], expected.out.cpu()[tokens]),
        relative_error(found.states[touched], expected.states[touched]),
    )


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)
