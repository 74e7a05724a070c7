# SPDX-License-Identifier: Apache-2.0
"""What the layer on CUDA compiles ahead; tests/gpu/test_layer.py and test_engine.py run it."""

from __future__ import annotations

import pytest
import torch
from triton.runtime.errors import OutOfResources

from ascend_gdn.fla.cuda import gdn
from ascend_gdn.fla.cuda.chunk import PagedChunkGatedDeltaRule
from ascend_gdn.fla.cuda.gdn import StepCudaGatedDeltaNetAttention
from ascend_gdn.fla.cuda.launch import KernelDoesNotFitError
from both_sides.lone_layers import CPU, WIDTH, LayerSizes, make_layer

SIZES = LayerSizes(key_heads=2, value_heads=4, head_dim=64)
INPUT = torch.empty(1, SIZES.conv_dim, dtype=torch.bfloat16)


@pytest.fixture
def layer(mocker):
    """One of which no kernel runs; ``vllms`` stands for vLLM's rule."""
    layer = make_layer(StepCudaGatedDeltaNetAttention, SIZES, num_spec=0, blocks=1, device=CPU)
    properties = mocker.Mock(multi_processor_count=132)
    mocker.patch.object(torch.cuda, "get_device_properties", return_value=properties)

    def conv(self, x, *arguments):
        chunk, blocks, has_initial_state = arguments[-3:]
        assert x.mixed_qkv.shape == (64 * chunk.num_seqs, SIZES.conv_dim)
        assert has_initial_state.all()
        assert not blocks.any()
        for table in (chunk.cu_seqlens, chunk.chunk_indices_chunk64, chunk.chunk_offsets_chunk64):
            assert table.data_ptr() % 16 == 0  # another would be compiled for
        layer.seqs = chunk.num_seqs
        return x.mixed_qkv, x.mixed_qkv, x.out, x.a, x.b

    layer.vllms = mocker.patch.object(gdn, "VllmChunkGatedDeltaRule").return_value
    layer.vllms.return_value = torch.zeros(1, 4, 64, 64)
    mocker.patch.object(gdn.CausalConv1dSplit, "__call__", conv)
    layer.get_state_shape = lambda: ((WIDTH - 1, SIZES.conv_dim), (4, 64, 64))
    layer.get_state_dtype = lambda: (torch.bfloat16, torch.float32)
    return layer


def test_our_kernels_are_compiled_for_few_sequences_and_for_many(layer, mocker):
    layer.make_kernels("ascend_gdn")
    seqs = []
    rule = mocker.patch.object(PagedChunkGatedDeltaRule, "__call__")
    rule.side_effect = lambda *arguments: seqs.append(layer.seqs)
    layer._warm_up(INPUT)
    assert set(seqs) == {1, 132}


def test_vllms_are_tuned_with_a_state_and_without(layer):
    layer.make_kernels("triton")
    layer._warm_up(INPUT)
    states = [call.args[4] for call in layer.vllms.call_args_list]
    assert [state is None for state in states] == [False, True]


def test_a_card_that_ours_do_not_fit_gets_vllms(layer, mocker):
    layer.make_kernels("ascend_gdn")
    error = KernelDoesNotFitError("chunk_o", OutOfResources(117252, 101376, "shared memory"))
    mocker.patch.object(PagedChunkGatedDeltaRule, "__call__", side_effect=error)
    warning = mocker.patch.object(gdn.logger, "warning_once")
    layer._warm_up(INPUT)
    assert layer.chunk_rule is layer.vllms
    assert layer.prefill_backend == "triton"
    assert layer.vllms.called
    message = warning.call_args.args[0] % warning.call_args.args[1:]
    assert "chunk_o does not fit" in message
    assert "117252" in message
