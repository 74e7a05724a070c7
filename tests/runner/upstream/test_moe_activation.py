# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.custom_op import op_registry_oot
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.cpu_fused_moe import _CPU_MOE_ACT_FN

from ascend_gdn.runner.upstream.moe_activation import ContextFreeSiluAndMul
from ascend_gdn.runner.worker import register_out_of_tree


@pytest.fixture
def registered(mocker) -> None:
    mocker.patch.dict(op_registry_oot)
    register_out_of_tree(ContextFreeSiluAndMul, SiluAndMul)


def activate(x: torch.Tensor) -> torch.Tensor:
    """As a forward of vLLM's experts does."""
    return _CPU_MOE_ACT_FN[MoEActivation.SILU](x)


def test_upstream_has_the_fault_still():
    with pytest.raises(AssertionError, match="Current vLLM config is not set"):
        activate(torch.randn(3, 8))


def test_it_is_made_in_a_forward(registered):
    x = torch.randn(3, 8)
    gate, up = x.double().chunk(2, dim=-1)
    expected = gate / (1 + (-gate).exp()) * up
    torch.testing.assert_close(activate(x).double(), expected, atol=1e-6, rtol=1e-5)


def test_a_model_takes_it_too(registered):
    x = torch.randn(3, 8)
    with set_current_vllm_config(VllmConfig()):
        layer = SiluAndMul()
    assert type(layer) is ContextFreeSiluAndMul
    assert torch.equal(layer(x), activate(x))
