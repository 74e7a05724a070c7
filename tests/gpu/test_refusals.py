# SPDX-License-Identifier: Apache-2.0
"""The layer on a GPU refuses a broken contract before it has written anything."""

from __future__ import annotations

from .device import CUDA, require_cuda

require_cuda()

import pytest
import torch

from both_sides.cuda_layers import forward_context, our_layer
from both_sides.lone_layers import Activations, LayerSizes
from both_sides.workloads import OursOnCuda, Theirs, Workload

from ..fla.refusals import BREAKS, STEPS, assert_refused_untouched

SIZES = LayerSizes(key_heads=2, value_heads=4)
BLOCKS = 1 + 3 * 256 * 4


def forward(layer, metadata, activations: Activations) -> None:
    with torch.inference_mode(), forward_context(metadata):
        layer._forward_core(*activations.arguments())


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("workload", STEPS, ids=lambda workload: workload.name)
def test_a_refused_step_leaves_states_and_outputs_as_they_were(workload: Workload, name: str):
    layer = our_layer(SIZES, workload.num_spec, BLOCKS, CUDA)
    activations = Activations.of(SIZES, workload.num_tokens).to(CUDA)
    side, theirs = OursOnCuda(workload, CUDA), Theirs(workload, CUDA)
    assert_refused_untouched(name, side, theirs, layer, activations, forward)
