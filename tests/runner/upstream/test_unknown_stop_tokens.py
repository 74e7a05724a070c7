# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace

from vllm import SamplingParams

from ascend_gdn.runner.upstream.unknown_stop_tokens import forget_unknown_stop_tokens


def test_only_tokens_of_the_model_are_left():
    params = SamplingParams(stop_token_ids=[-1, 0, 7, 511, 512, 10**6], min_tokens=3)
    pooling = SimpleNamespace(sampling_params=None)
    forget_unknown_stop_tokens([pooling, SimpleNamespace(sampling_params=params)], 512)
    assert params.all_stop_token_ids == {0, 7, 511}
