# SPDX-License-Identifier: Apache-2.0
"""The layer on CPU refuses a step whose contract is broken before it has written anything."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from vllm.forward_context import override_forward_context

from ascend_gdn.fla.cpu.chunk import CPUChunkGatedDeltaRule
from ascend_gdn.fla.cpu.fused_sigmoid_gating import torch_decode_kernel
from ascend_gdn.fla.cpu.gdn import StepCPUGatedDeltaNetAttention
from both_sides.lone_layers import PREFIX, Activations, LayerSizes, make_layer
from both_sides.workloads import Ours, Theirs, Workload

from ..refusals import BREAKS, STEPS, assert_refused_untouched

SIZES = LayerSizes(key_heads=1, value_heads=2, head_dim=64)
BLOCKS = 3 * 256 * 4 + 1


def forward(layer, metadata, activations: Activations) -> None:
    context = SimpleNamespace(attn_metadata={PREFIX: metadata})
    with torch.inference_mode(), override_forward_context(context):
        layer._forward_core(*activations.arguments())


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("workload", STEPS, ids=lambda workload: workload.name)
def test_a_refused_step_leaves_states_and_outputs_as_they_were(workload: Workload, name: str):
    layer = make_layer(StepCPUGatedDeltaNetAttention, SIZES, workload.num_spec, BLOCKS)
    layer.chunk_rule = CPUChunkGatedDeltaRule(SIZES.head_dim**-0.5)
    layer.decode_kernel = torch_decode_kernel
    activations = Activations.of(SIZES, workload.num_tokens)
    assert_refused_untouched(name, Ours(workload), Theirs(workload), layer, activations, forward)
