# SPDX-License-Identifier: Apache-2.0
"""The prefill's kernels on a GPU: as near to a plain recurrence in float64 as vLLM's, or nearer."""

from __future__ import annotations

from .device import CUDA, require_cuda

require_cuda()

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from vllm.model_executor.layers.fla.ops import chunk_gated_delta_rule
from vllm.model_executor.layers.fla.ops.fused_gdn_prefill_post_conv import fused_post_conv_prep
from vllm.model_executor.layers.mamba.ops.causal_conv1d import causal_conv1d_fn

from ..fla.cuda.prefills import WIDTH, Case, Prefills, errors, tables

BF16 = {"dtype": "bfloat16", "heads": (2, 4), "dims": (128, 128)}
LENGTHS = [1, 63, 64, 65, 127, 128, 129, 4097]
CASES = [
    Case("all lengths", LENGTHS, **BF16),
    Case("all lengths, float16", LENGTHS, **BF16 | {"dtype": "float16"}),
    Case("256 sequences", [1 + 37 * seq % 90 for seq in range(256)], **BF16),
    Case("all remembered", [300, 64], a=-40.0, **BF16),
    Case("all forgotten", [300, 64], a=10.0, **BF16),
    Case("nothing written", [300, 64], b=-60.0, **BF16),
    Case("all replaced", [300, 64], b=60.0, **BF16),
    Case("the same key all over", [300, 64], b=60.0, a=-40.0, same_keys=True, **BF16),
    Case("a bias", [300, 65], has_bias=True, **BF16),
    Case("a state of bfloat16", [300, 65], state_dtype="bfloat16", **BF16),
    Case("NaN in one", [300, 65, 3], nan_in=1, **BF16),
    Case("heads of 64", [300, 65], **BF16 | {"dims": (64, 64)}),
    Case("heads of 96", [300, 65], **BF16 | {"dims": (96, 96)}),
    Case("heads of 256", [300, 65], **BF16 | {"dims": (256, 256)}),
    Case("heads of a rank of four", [300, 65], **BF16 | {"heads": (4, 8)}),
]
EMPTY = Case("empty ones between", [0, 70, 0, 0, 5, 0], **BF16)


def vllms(prefills: Prefills) -> SimpleNamespace:
    """What vLLM's own operators leave."""
    x, case = prefills.x, prefills.case
    conv_states, states = prefills.conv_states.clone(), prefills.states.clone()
    conv_states[0], blocks = 0, prefills.blocks.int()
    cu_seqlens = tables(case.lengths, CUDA).cu_seqlens
    mixed = causal_conv1d_fn(
        x.mixed_qkv.T,
        prefills.weight[:, 0],
        prefills.bias,
        conv_states=conv_states,
        query_start_loc=cu_seqlens,
        cache_indices=blocks,
        has_initial_state=prefills.has_initial_state,
        activation="silu",
    ).T
    q, k, v, g, beta = fused_post_conv_prep(
        conv_output=mixed.contiguous(),
        a=x.a,
        b=x.b,
        A_log=prefills.A_log,
        dt_bias=prefills.dt_bias,
        num_k_heads=prefills.key_heads,
        head_k_dim=prefills.key_dim,
        head_v_dim=prefills.value_dim,
        apply_l2norm=True,
        output_g_exp=False,
    )
    initial = states[blocks.long()].float()
    initial[~prefills.has_initial_state] = 0
    out, final = chunk_gated_delta_rule(
        *(part[None] for part in (q, k, v, g, beta)),
        initial_state=initial,
        output_final_state=True,
        cu_seqlens=cu_seqlens,
    )
    states[blocks.long()] = final.to(states.dtype)
    conv_states[0] = prefills.conv_states[0]
    return SimpleNamespace(out=out[0], conv_states=conv_states, states=states)


@pytest.mark.parametrize("processors", [10_000, 1], ids=["narrow", "wide"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_further_from_a_plain_recurrence_than_vllm(case, processors):
    prefills = Prefills(case, CUDA)
    with torch.inference_mode():
        torch.use_deterministic_algorithms(True, warn_only=True)  # fills what is allocated with NaN
        found = prefills.run(processors)
        torch.use_deterministic_algorithms(False)
        theirs = vllms(prefills)
    ours, upstreams = errors(prefills, found), errors(prefills, theirs)
    print(f"{case.name}: outputs, states: {ours[0]:.2e}, {ours[1]:.2e}; vLLM {upstreams[0]:.2e}, "
          f"{upstreams[1]:.2e}")  # fmt: skip
    for own, upstream in zip(ours, upstreams, strict=True):
        assert own <= max(upstream * 1.02, 1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_state_without_tokens_is_left_alone(dtype):
    prefills = Prefills(replace(EMPTY, dtype=dtype), CUDA)
    assert max(errors(prefills, prefills.run(10_000))) < 1e-2


def test_the_same_twice():
    """A race would differ."""
    prefills = Prefills(Case("", [700] * 40, **BF16 | {"heads": (4, 8)}), CUDA)
    first = prefills.run(1)
    out = first.out.clone()
    for processors in (1, 10_000, 1):
        again = prefills.run(processors)
        assert torch.equal(again.out, out)
        assert torch.equal(again.states[prefills.blocks], first.states[prefills.blocks])
        assert torch.equal(
            again.conv_states[prefills.blocks][..., : WIDTH - 1],
            first.conv_states[prefills.blocks][..., : WIDTH - 1],
        )
