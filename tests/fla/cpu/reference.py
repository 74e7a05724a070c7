# SPDX-License-Identifier: Apache-2.0
"""Gated DeltaNet token by token in float64, for clarity, and metadata for its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ascend_gdn.attention.cpu import CPUChunkedPrefillMetadata
from ascend_gdn.fla.cpu.chunk import CPUChunkGatedDeltaRule

from ...attention.reference import reference_tables


def make_chunk(lengths: list[int]) -> CPUChunkedPrefillMetadata:
    """The tables of one step whose prefill sequences have ``lengths`` tokens."""
    tables = reference_tables(lengths, cumsum_block=1024)
    return CPUChunkedPrefillMetadata(
        **{name: torch.tensor(values, dtype=torch.int32) for name, values in tables.items()},
        cu_seqlens_cpu=np.array(tables["cu_seqlens"], dtype=np.int32),
        chunk_indices_chunk64_cpu=np.array(tables["chunk_indices_chunk64"], dtype=np.int32),
    )


@dataclass
class Inputs:
    """Arguments of one call, T tokens in N sequences."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    g: torch.Tensor
    beta: torch.Tensor
    initial_state: torch.Tensor


def random_inputs(
    lengths: list[int],
    *,
    key_heads: int = 1,
    group: int = 1,
    key_dim: int = 16,
    value_dim: int = 16,
    dtype: torch.dtype = torch.float32,
    decay: float = 1.0,
    seed: int = 0,
) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    tokens, value_heads = sum(lengths), key_heads * group

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Inputs(
        q=normal(1, tokens, key_heads, key_dim).to(dtype),
        k=normal(1, tokens, key_heads, key_dim).to(dtype),
        v=normal(1, tokens, value_heads, value_dim).to(dtype),
        g=-decay * torch.rand(1, tokens, value_heads, generator=generator),
        beta=normal(1, tokens, value_heads).sigmoid().to(dtype),
        initial_state=normal(len(lengths), value_heads, key_dim, value_dim) * 0.3,
    )


def recurrent(
    inputs: Inputs, lengths: list[int], *, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [1, T, Hv, V] and final state [N, Hv, K, V], float64."""
    q, k, v, g, beta, initial_state = (
        x.double()
        for x in (inputs.q, inputs.k, inputs.v, inputs.g, inputs.beta, inputs.initial_state)
    )
    q = q / (q.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    k = k / (k.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    group = v.shape[2] // k.shape[2]
    q, k = q.repeat_interleave(group, dim=2) * scale, k.repeat_interleave(group, dim=2)
    o, final_states = torch.empty_like(v), []
    token = 0
    for seq, length in enumerate(lengths):
        state = initial_state[seq].clone()
        for _ in range(length):
            query, key, value = q[0, token], k[0, token], v[0, token]
            state = state * g[0, token].exp()[:, None, None]
            remembered = torch.einsum("hk,hkv->hv", key, state)
            change = (value - remembered) * beta[0, token][:, None]
            state = state + torch.einsum("hk,hv->hkv", key, change)
            o[0, token] = torch.einsum("hk,hkv->hv", query, state)
            token += 1
        final_states.append(state)
    return o, torch.stack(final_states)


def chunk_gated_delta_rule(
    inputs: Inputs, lengths: list[int], scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours: output [1, T, Hv, V], poisoned before, and final state [N, Hv, K, V]."""
    out = torch.full_like(inputs.v[0], float("nan"))
    final_state = CPUChunkGatedDeltaRule(scale)(
        torch.stack((inputs.q[0], inputs.k[0])),
        inputs.v[0],
        inputs.g[0],
        inputs.beta[0],
        inputs.initial_state,
        out,
        make_chunk(lengths),
    )
    return out.unsqueeze(0), final_state


def relative_error(found: torch.Tensor, expected: torch.Tensor, floor: float = 1e-30) -> float:
    """Root mean square of the difference, relative to that of what is expected or to ``floor``."""
    difference = (found.double() - expected.double()).square().mean().sqrt()
    return float(difference / expected.double().square().mean().sqrt().clamp_min(floor))
