# SPDX-License-Identifier: Apache-2.0
"""What FlashInfer's prefill is refused for; tests/gpu/test_layer.py runs it."""

from __future__ import annotations

import sys

import pytest

from ascend_gdn.fla.cuda.flashinfer import FlashInferChunkGatedDeltaRule


@pytest.mark.parametrize(("key_dim", "value_dim"), [(64, 64), (128, 64), (256, 256)])
def test_heads_that_its_kernel_would_take_for_128_columns(key_dim, value_dim):
    expected = f"linear_key_head_dim {key_dim} .*linear_value_head_dim {value_dim}, expected 128"
    with pytest.raises(ValueError, match=expected):
        FlashInferChunkGatedDeltaRule(key_dim, value_dim)


def test_no_flashinfer(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    with pytest.raises(ImportError, match="or leave --gdn-prefill-backend out"):
        FlashInferChunkGatedDeltaRule(128, 128)
