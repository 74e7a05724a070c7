# SPDX-License-Identifier: Apache-2.0
"""Our Ascend layer against vLLM-Ascend's own, over the same emulated operators."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from importlib import import_module

import pytest
import torch
from torch.nn.functional import normalize

import ascend_gdn.fla.ascend.chunk
import ascend_gdn.fla.ascend.gdn
from ascend_gdn.attention.errors import GDNContractError
from both_sides import allocating_operators
from both_sides.ascend_layers import forward_context, our_layer, stock_layer
from both_sides.ascend_workloads import OUR_LAYER, TAKES_ACTUAL_REQUESTS, Ours, Theirs
from both_sides.lone_layers import WIDTH, Activations, LayerSizes
from both_sides.workloads import Workload
from emulated_npu.stacks.common import NAMESPACE
from emulated_npu.triton_small import Kernel

from .reference import convolution, delta_rule

SIZES = LayerSizes()  # the head counts of ascend_workloads.py, which decide a table's block
BLOCKS = 100
NEXT_MODULES = []
if TAKES_ACTUAL_REQUESTS:  # vllm-ascend 0.30.0rc2
    names = ("ascend_gdn.fla.ascend.fla_npu", "fla_npu.ops.ascendc")
    names += ("vllm_ascend.ops.triton.fused_gdn_gating",)
    NEXT_MODULES = [import_module(name) for name in names]


def run(side, layer, activations: Activations) -> None:
    for table in side.batch.block_tables:
        table[:] = (table - 1) % (BLOCKS - 1) + 1
    with torch.inference_mode():
        metadata = side.step(side.batch.common_metadata())[1]
        with forward_context(metadata):
            layer._forward_core(*activations.arguments())


@pytest.mark.parametrize(
    "workload",
    [
        Workload("prefills", [100, 1217, 1], [0, 64, 0]),
        Workload("new prompts", [100, 64], [0, 0]),
        Workload("prompts that go on", [100, 64], [64, 128]),
        Workload("a new prompt", [100], [0]),
        Workload("a prompt that goes on", [100], [64]),
        Workload("decodes and prefills", [1, 1, 70, 130], [9, 8, 64, 0]),
        Workload("decodes and a prompt that goes on", [1, 1, 70], [9, 8, 64]),
        Workload("decodes", [1, 1], [9, 8]),
        Workload("MTP: mixed", [4, 4, 70, 130], [9, 8, 64, 0], [3, 3, -1, -1], [2, 4, 1, 1]),
        Workload("MTP: prefill first", [70, 4, 4], [0, 9, 8], [-1, 3, 3], [1, 3, 1]),
        Workload("MTP: a decode without drafts", [4, 1, 70], [9, 8, 0], [3, -1, -1], [2, 1, 1]),
        Workload("MTP: no prefill", [4, 4], [9, 8], [3, 3], [2, 4]),
    ],
    ids=lambda workload: workload.name,
)
@pytest.mark.parametrize("padding", [0, 5])
def test_equals_vllm_ascend_bit_by_bit(workload: Workload, padding: int):
    states, outputs = [], []
    for side_cls, make in ((Theirs, stock_layer), (Ours, our_layer)):
        activations = Activations.of(SIZES, workload.num_tokens + padding)
        layer = make(SIZES, workload.num_spec, BLOCKS)
        run(side_cls(workload), layer, activations)
        states.append(layer.kv_cache)
        outputs.append(activations.core_attn_out)
    for theirs, ours in (outputs, *zip(*states, strict=True)):
        assert torch.equal(theirs, ours)
    written, padded = outputs[1][: workload.num_tokens], outputs[1][workload.num_tokens :]
    assert (written != 1e4).any(-1).all()
    assert (padded == torch.tensor(1e4).bfloat16()).all()


@pytest.mark.parametrize(
    ("lengths", "accepted"),
    [
        pytest.param([4, 4, 4], [2, 1, 4], id="all drafts"),
        pytest.param([4, 2, 3], [2, 1, 3], id="drafts cut"),
        pytest.param([4, 2, 4], [2, 4, 1], id="accepted more than the query has"),
    ],
)
def test_speculative_requests_go_on_from_the_last_token_that_they_kept(lengths, accepted):
    drafts = [length - 1 for length in lengths]
    workload = Workload(
        "speculative", [*lengths, 70], [50, 60, 70, 0], [*drafts, -1], [*accepted, 1]
    )
    side, layer = Ours(workload), our_layer(SIZES, 3, BLOCKS)
    activations = Activations.of(SIZES, workload.num_tokens)
    before = [state.clone() for state in layer.kv_cache]
    run(side, layer, activations)
    weight = layer.conv1d.weight[:, 0].t()
    g = -layer.A_log.exp() * torch.nn.functional.softplus(activations.a.float() + layer.dt_bias)
    beta = activations.b.float().sigmoid()
    start = 0
    for request, (length, kept) in enumerate(zip(lengths, accepted, strict=True)):
        tokens = slice(start, start + length)
        start += length
        blocks = side.batch.block_tables[1][request, :4]
        past = before[0][blocks[0], kept - 1 : kept - 1 + WIDTH - 1]
        x = convolution(activations.mixed_qkv[tokens], weight, past).to(torch.bfloat16)
        key_dim = SIZES.key_heads * SIZES.head_dim
        q, k = (
            normalize(part.float().unflatten(-1, (SIZES.key_heads, -1)), dim=-1).repeat_interleave(
                SIZES.value_heads // SIZES.key_heads, 1
            )
            for part in (x[:, :key_dim], x[:, key_dim : 2 * key_dim])
        )
        v = x[:, 2 * key_dim :].unflatten(-1, (SIZES.value_heads, -1))
        state = before[1][blocks[kept - 1]].transpose(-1, -2)
        for token in range(length):
            one = slice(token, token + 1)
            own_g, own_beta = g[tokens][one], beta[tokens][one]
            o, state = delta_rule(
                q[one], k[one], v[one], own_g, own_beta, state, SIZES.head_dim**-0.5
            )
            found = activations.core_attn_out[tokens][one].double()
            assert torch.allclose(found, o, atol=2e-3, rtol=2e-2)
            saved = layer.kv_cache[1][blocks[token]].transpose(-1, -2).double()
            assert torch.allclose(saved, state, atol=2e-3, rtol=2e-2)


def test_a_broken_contract_names_the_layer():
    workload = Workload("prefill", [70], [0])
    side, layer = Ours(workload), our_layer(SIZES, 0, BLOCKS)
    metadata = side.step(side.batch.common_metadata())[0]
    metadata.non_spec_prefill_fallback_meta = None
    with (
        forward_context(metadata),
        pytest.raises(GDNContractError, match=r"linear_attn: non_spec_prefill.*found None"),
    ):
        layer._forward_core(*Activations.of(SIZES, 70).arguments())
    theirs = Theirs(workload)
    metadata = theirs.step(theirs.batch.common_metadata())[0]
    with (
        forward_context(metadata),
        pytest.raises(GDNContractError, match=r"linear_attn: attn_metadata: found GDNAttention"),
    ):
        layer._forward_core(*Activations.of(SIZES, 70).arguments())


def on_meta(value):
    """``value`` with all its tensors on the device that has no data."""
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: on_meta(getattr(value, f.name)) for f in fields(value) if f.init}
        return replace(value, **own)
    return value


@pytest.fixture
def operators_without_data(mocker):
    for name, function in allocating_operators.BY_NAME.items():
        for module in (ascend_gdn.fla.ascend.gdn, ascend_gdn.fla.ascend.chunk, *NEXT_MODULES):
            found = vars(module).get(name)
            if isinstance(found, Kernel):
                mocker.patch.object(module, name, Kernel(function))
            elif found is not None and not found.__module__.startswith("ascend_gdn."):
                mocker.patch.object(module, name, function)
    if NEXT_MODULES:
        rule = staticmethod(allocating_operators.recurrent_gated_delta_rule)
        mocker.patch.object(OUR_LAYER, "_recurrence", rule)
    library = torch.library.Library(NAMESPACE, "FRAGMENT")
    for name, function in allocating_operators.BY_NAME.items():
        if name in dir(torch.ops._C_ascend):
            library.impl(name, function, "Meta")
    yield
    library._destroy()


@pytest.mark.parametrize(
    "workload",
    [
        Workload("prefills", [100, 70], [0, 64]),
        Workload("mixed", [1, 1, 70, 130], [9, 8, 64, 0]),
        Workload("MTP: mixed", [4, 4, 70], [9, 8, 64], [3, 3, -1], [2, 4, 1]),
        Workload("MTP: prefill first", [70, 4], [0, 9], [-1, 3], [1, 3]),
    ],
    ids=lambda workload: workload.name,
)
def test_nothing_is_read_back_from_the_device(workload, operators_without_data):
    side, layer = Ours(workload), our_layer(SIZES, workload.num_spec, BLOCKS)
    metadata = on_meta(side.step(side.batch.common_metadata())[0])
    layer.to("meta")
    layer.kv_cache = tuple(state.to("meta") for state in layer.kv_cache)
    activations = Activations.of(SIZES, workload.num_tokens).to("meta")
    # Any .item(), .tolist(), .cpu() or comparison of a tensor for a branch would raise there.
    with pytest.raises((NotImplementedError, RuntimeError)):
        metadata.prefill_state_indices.tolist()
    with torch.inference_mode(), forward_context(metadata):
        layer._forward_core(*activations.arguments())
