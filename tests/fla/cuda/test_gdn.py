# SPDX-License-Identifier: Apache-2.0
"""What the layer on CUDA compiles ahead; tests/gpu/test_layer.py and test_engine.py run it."""

from __future__ import annotations

from itertools import product

import torch

from ascend_gdn.fla.cuda.gdn import StepCudaGatedDeltaNetAttention
from both_sides.lone_layers import CPU, LayerSizes, make_layer


def test_the_kernel_after_the_convolution_is_compiled_for_every_prefill():
    """For any length, and behind any number of decodes: Triton asks what is divisible by 16."""
    sizes = LayerSizes(key_heads=2, value_heads=4, head_dim=64)
    layer = make_layer(StepCudaGatedDeltaNetAttention, sizes, num_spec=0, blocks=1, device=CPU)
    compiled, chunks = set(), []

    def post_conv(x, a, b, A_log, dt_bias):
        tokens = x.shape[0]
        assert x.data_ptr() % 16 == 0
        assert a.data_ptr() % 16 == b.data_ptr() % 16
        length = "1" if tokens == 1 else "16 n" if tokens % 16 == 0 else "other"
        compiled.add((length, a.data_ptr() % 16 == 0))
        return x, x, a, b

    layer.post_conv = post_conv
    layer.chunk_rule = lambda *arguments: chunks.append(arguments[-1])
    layer.get_state_shape = lambda: (None, (4, 64, 64))
    layer.get_state_dtype = lambda: (None, torch.float32)
    layer._warm_up(torch.empty(1, sizes.conv_dim, dtype=torch.bfloat16))
    assert compiled == set(product(("1", "16 n", "other"), (True, False)))
    assert [chunk.cu_seqlens.tolist() for chunk in chunks] == [[0, 64]] * 2
    for chunk in chunks:
        assert chunk.chunk_indices_chunk64.tolist() == [[0, 0]]
        assert chunk.chunk_offsets_chunk64.tolist() == [0, 1]
        for table in (chunk.cu_seqlens, chunk.chunk_indices_chunk64, chunk.chunk_offsets_chunk64):
            assert table.data_ptr() % 16 == 0
