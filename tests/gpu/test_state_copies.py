# SPDX-License-Identifier: Apache-2.0
"""The states that a step leaves behind, on a GPU: equal to copies one by one, overlaps included."""

from __future__ import annotations

from .device import CUDA, require_cuda

require_cuda()

import numpy as np
import pytest
import torch
from vllm.v1.worker.mamba_utils import postprocess_mamba_fused_kernel

from ..fla.state_copies import States, Step, assert_equal, leave_states, reference


@pytest.mark.parametrize("dim_first", [False, True])
@pytest.mark.parametrize(
    ("block_size", "num_spec", "columns", "words", "dtype"),
    [
        pytest.param(16, 3, 40, 80, torch.bfloat16, id="small"),
        pytest.param(16, 7, 1300, 4096, torch.float32, id="more than a tile"),
        pytest.param(1088, 3, 8192, 32 * 128 * 128, torch.bfloat16, id="Qwen3-Next"),
    ],
)
def test_equal_to_copies_one_by_one(block_size, num_spec, columns, words, dtype, dim_first):
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    step = Step.draw(random, 8, block_size, num_spec)
    before = States.draw(step.num_blocks, 3 + num_spec, columns, words, dtype, dim_first)
    expected, expected_counts, within = reference(step, before)
    states = before.to(CUDA)
    assert leave_states(step, states, CUDA).tolist() == expected_counts.tolist()
    assert_equal(states, expected)
    assert within > 0


def leave_states_as_vllm(step: Step, states: States) -> None:
    """By vLLM 0.23.0's kernel, with its arguments; windows with their channels last."""

    def on_device(values: list, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=CUDA)

    flat = [state for pair in zip(states.windows, states.recurrent, strict=True) for state in pair]
    is_window = [number % 2 == 0 for number in range(len(flat))]
    counts = [
        torch.from_numpy(values).to(CUDA)
        for values in (step.accepted, step.running, step.scheduled, step.computed, step.drafts)
    ]
    tables = [torch.from_numpy(table).to(CUDA) for table in step.tables]
    inner = [
        state.stride(1) if window else state[0].numel()
        for state, window in zip(flat, is_window, strict=True)
    ]
    postprocess_mamba_fused_kernel[(len(step.accepted), len(flat))](
        *counts,
        on_device([table.data_ptr() for table in tables], torch.int64),
        tables[0].stride(0),
        on_device([state.data_ptr() for state in flat], torch.int64),
        on_device([state.stride(0) * state.element_size() for state in flat], torch.int64),
        on_device([state.element_size() for state in flat], torch.int32),
        on_device(inner, torch.int64),
        on_device(
            [state.shape[1] * window for state, window in zip(flat, is_window, strict=True)],
            torch.int32,
        ),
        on_device([number // 4 for number in range(len(flat))], torch.int32),
        torch.empty_like(counts[0]),
        len(step.accepted),
        block_size=step.block_size,
        COPY_BLOCK_SIZE=1024,
    )


def test_overlaps_come_out_right_every_time():
    """Rows of 40 channels, so that vLLM's kernel has other threads read than write a place."""
    random = np.random.default_rng(1)
    torch.manual_seed(1)
    step = Step.draw(random, 128, 64, 60)
    before = States.draw(step.num_blocks, 63, 40, 80, torch.bfloat16, dim_first=False)
    expected, _, within = reference(step, before)
    wrong = 0
    for _ in range(20):
        states = before.to(CUDA)
        leave_states(step, states, CUDA)
        assert_equal(states, expected)
        states = before.to(CUDA)
        leave_states_as_vllm(step, states)
        wrong += any(
            not torch.equal(found.cpu(), wanted)
            for found, wanted in zip(states.windows, expected.windows, strict=True)
        )
    print(f"{within} windows overlap; by vLLM's kernel {wrong} of 20 steps came out wrong")
    assert within > 20
