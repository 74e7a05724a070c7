# SPDX-License-Identifier: Apache-2.0
"""Our layer on a GPU: what vLLM's does, and as a plain reference."""

from __future__ import annotations

from .device import CUDA, require_cuda

require_cuda()

import pytest
import torch
from torch.nn.functional import normalize, softplus

from ascend_gdn.attention.errors import GDNContractError
from both_sides.cuda_layers import forward_context, our_layer, stock_layer
from both_sides.lone_layers import WIDTH, Activations, LayerSizes
from both_sides.workloads import OursOnCuda, Theirs, Workload

from ..emulation.reference import convolution, delta_rule
from ..fla.cuda.prefills import relative_error

SIZES = LayerSizes(key_heads=2, value_heads=4)
BLOCKS = 1 + 3 * 256 * 4
LAYER = {"sizes": SIZES, "blocks": BLOCKS, "device": CUDA}
WORKLOADS = (
    Workload("fresh prompts", [100, 70, 1, 640], [0, 0, 0, 0]),
    Workload("one long prompt", [5000], [0]),
    Workload("second chunks", [64, 200, 65], [64, 128, 1]),
    Workload("some with a state", [64, 200, 65], [64, 0, 1]),
    Workload("decodes first", [1, 1, 1, 70, 130], [9, 8, 700, 64, 0]),
    Workload("MTP", [4, 4, 70, 30], [9, 8, 64, 0], [3, 3, -1, -1], [2, 4, 1, 1]),
    Workload("MTP, drafts cut", [4, 2, 1, 70], [9, 8, 5, 64], [3, 1, 0, -1], [2, 4, 3, 1]),
    Workload("decodes", [1, 1, 1], [9, 8, 700]),
    Workload("MTP, only drafts", [4, 4], [9, 8], [3, 3], [2, 4]),
)


@pytest.fixture(params=["ascend_gdn", "triton", "flashinfer"])
def backend(request) -> dict[str, str]:
    """The prefill's backend, which a layer and its builder have to agree on."""
    if request.param == "flashinfer":
        pytest.importorskip("flashinfer", reason="FlashInfer is not installed")
    return {"prefill_backend": request.param}


def run(side, layer, activations: Activations) -> torch.Tensor:
    """Return the output, after one forward over poisoned rows."""
    metadata = side.step(side.batch.common_metadata())[1]
    with torch.inference_mode(), forward_context(metadata):
        layer._forward_core(*activations.arguments())
    return activations.core_attn_out


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To the rounding of bfloat16, which vLLM does once more behind its convolution."""
    assert found.isfinite().all()
    assert relative_error(found, expected) < 1e-2


def assert_same_states(ours, theirs) -> None:
    """Block 0 is the null block, which padding may be written to."""
    (conv_states, states), (their_conv_states, their_states) = ours.kv_cache, theirs.kv_cache
    torch.testing.assert_close(conv_states[1:], their_conv_states[1:], atol=0, rtol=0)
    assert_close(states[1:], their_states[1:])
    untouched = (states == their_states).flatten(1).all(1)
    assert untouched.sum() > len(states) // 2


@pytest.mark.parametrize("conv_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("padding", [0, 37])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_equals_vllm(workload, padding, conv_dtype, backend):
    tokens, outputs, layers = workload.num_tokens, [], []
    for side, make in ((Theirs, stock_layer), (OursOnCuda, our_layer)):
        layer = make(num_spec=workload.num_spec, **LAYER, **backend)
        layer.kv_cache = (layer.kv_cache[0].to(conv_dtype), layer.kv_cache[1])
        activations = Activations.of(SIZES, tokens + padding).to(CUDA)
        outputs.append(run(side(workload, CUDA, **backend), layer, activations))
        layers.append(layer)
    theirs, ours = outputs
    assert_close(ours[:tokens], theirs[:tokens])
    assert (ours[tokens:] == ours.new_tensor(1e4)).all()
    assert_same_states(layers[1], layers[0])


def test_speculative_requests_need_not_come_first(backend):
    """vLLM 0.23.0 takes the gates of the batch's first tokens for those of the drafts."""
    prompt, spec = slice(0, 70), slice(70, 77)
    mixed = Workload("a prefill first", [70, 4, 3], [64, 9, 5], [-1, 3, 2], [1, 3, 1])
    sorted_ = Workload("drafts first", [4, 3, 70], [9, 5, 64], [3, 2, -1], [3, 1, 1])
    ours = OursOnCuda(mixed, CUDA, **backend)
    theirs = Theirs(sorted_, CUDA, **backend)
    for table in theirs.batch.device_block_tables:
        table[:3] = table[[1, 2, 0]]
    activations = Activations.of(SIZES, 77).to(CUDA)
    order = torch.cat([torch.arange(70, 77), torch.arange(70)]).to(CUDA)
    permuted = Activations(*(t[order].contiguous() for t in activations.arguments()))
    layers = [make(num_spec=3, **LAYER, **backend) for make in (our_layer, stock_layer)]
    found = run(ours, layers[0], activations)
    expected = run(theirs, layers[1], permuted)
    torch.testing.assert_close(found[spec], expected[:7], atol=0, rtol=0)
    assert_close(found[prompt], expected[7:])
    assert_same_states(*layers)


@pytest.mark.parametrize("context", [0, 30])
def test_equals_a_plain_recurrence(context, backend):
    lengths = [100, 70]
    workload = Workload("reference", lengths, [context, context])
    side = OursOnCuda(workload, CUDA, **backend)
    layer = our_layer(num_spec=0, **LAYER, **backend)
    before = [state.cpu() for state in layer.kv_cache]
    activations = Activations.of(SIZES, sum(lengths))
    out = run(side, layer, activations.to(CUDA)).cpu()
    weight = layer.conv1d.weight.cpu()[:, 0].t()
    g = -layer.A_log.cpu().exp() * softplus(activations.a.float() + layer.dt_bias.cpu())
    beta = activations.b.float().sigmoid()
    key_dim, start = SIZES.key_heads * SIZES.head_dim, 0
    for request, length in enumerate(lengths):
        tokens = slice(start, start + length)
        start += length
        block = side.batch.block_tables[1][request, 0]
        past, state = before[0][block], before[1][block].transpose(-1, -2)
        if context == 0:
            past, state = torch.zeros_like(past), torch.zeros_like(state)
        inputs = activations.mixed_qkv[tokens]
        x = convolution(inputs, weight, past[: WIDTH - 1]).float()
        q, k = (
            normalize(part.unflatten(-1, (SIZES.key_heads, -1)), dim=-1).repeat_interleave(
                SIZES.value_heads // SIZES.key_heads, 1
            )
            for part in (x[:, :key_dim], x[:, key_dim : 2 * key_dim])
        )
        v = x[:, 2 * key_dim :].unflatten(-1, (SIZES.value_heads, -1))
        expected, final = delta_rule(q, k, v, g[tokens], beta[tokens], state, SIZES.head_dim**-0.5)
        assert relative_error(out[tokens], expected) < 1e-2
        found = layer.kv_cache[1][block].cpu().transpose(-1, -2)
        assert relative_error(found, final) < 1e-2
        assert torch.equal(layer.kv_cache[0][block].cpu()[: WIDTH - 1], inputs[1 - WIDTH :])


def test_a_broken_contract_names_the_layer(backend):
    workload = Workload("prefill", [70], [0])
    side = OursOnCuda(workload, CUDA, **backend)
    layer = our_layer(num_spec=0, **LAYER, **backend)
    metadata = side.step(side.batch.common_metadata())[0]
    metadata.non_spec_prefill_fallback_meta = None
    activations = Activations.of(SIZES, 70).to(CUDA)
    with (
        forward_context(metadata),
        pytest.raises(GDNContractError, match=r"linear_attn: non_spec_prefill.*found None"),
    ):
        layer._forward_core(*activations.arguments())


def test_metadata_of_an_earlier_step_is_refused(backend):
    workload = Workload("prefill", [70], [0])
    side = OursOnCuda(workload, CUDA, **backend)
    layer = our_layer(num_spec=0, **LAYER, **backend)
    stale = side.step(side.batch.common_metadata())[0]
    for _ in range(2):  # the ring's depth
        side.step(side.batch.common_metadata())
    activations = Activations.of(SIZES, 70).to(CUDA)
    with (
        forward_context(stale),
        pytest.raises(GDNContractError, match=r"linear_attn: .*generation"),
    ):
        layer._forward_core(*activations.arguments())
