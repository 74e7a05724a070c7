# SPDX-License-Identifier: Apache-2.0
"""The layer on the emulated NPU refuses a broken contract before it has written anything."""

from __future__ import annotations

import pytest
import torch

from both_sides.ascend_layers import forward_context, our_layer
from both_sides.ascend_workloads import Ours, Theirs
from both_sides.lone_layers import Activations, LayerSizes
from both_sides.workloads import Workload

from ..fla.refusals import BREAKS, STEPS, assert_refused_untouched

SIZES = LayerSizes()  # the head counts of ascend_workloads.py, which decide a table's block
BLOCKS = 100


def forward(layer, metadata, activations: Activations) -> None:
    with torch.inference_mode(), forward_context(metadata):
        layer._forward_core(*activations.arguments())


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("workload", STEPS, ids=lambda workload: workload.name)
def test_a_refused_step_leaves_states_and_outputs_as_they_were(workload: Workload, name: str):
    side = Ours(workload)
    for table in side.batch.block_tables:
        table[:] = (table - 1) % (BLOCKS - 1) + 1
    layer = our_layer(SIZES, workload.num_spec, BLOCKS)
    activations = Activations.of(SIZES, workload.num_tokens)
    assert_refused_untouched(name, side, Theirs(workload), layer, activations, forward)
