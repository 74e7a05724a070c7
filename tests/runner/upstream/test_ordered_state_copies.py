# SPDX-License-Identifier: Apache-2.0
"""vLLM's buffers and its call after a step, with our copies in place of its kernel."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from vllm.v1.utils import CpuGpuBuffer
from vllm.v1.worker import mamba_utils
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from ascend_gdn.fla.state_copies import StateLayout
from ascend_gdn.runner.gpu import StepGPUModelRunner
from ascend_gdn.runner.upstream.ordered_state_copies import OrderedStateCopies

from .. import simulation
from ..simulation import COPY_FUNCS, Sizes

CPU = torch.device("cpu")
REQUESTS = 4


def make_buffer(size: int, dtype: torch.dtype) -> CpuGpuBuffer:
    return CpuGpuBuffer(size, dtype=dtype, device=CPU, pin_memory=False)


@pytest.fixture
def runner(mocker) -> StepGPUModelRunner:
    """Ours, as far as vLLM's ``_get_mamba_bufs`` looks at it."""
    runner = StepGPUModelRunner.__new__(StepGPUModelRunner)
    runner._mamba_bufs = None
    runner.cache_config = SimpleNamespace(mamba_cache_mode="align")
    runner.max_num_reqs, runner.device = REQUESTS, CPU
    runner.kv_cache_config = simulation.kv_cache_config(Sizes(block_size=4, num_spec=2))
    runner.model = SimpleNamespace(get_mamba_state_copy_func=lambda: COPY_FUNCS)
    runner.model_config = SimpleNamespace(is_hybrid=True)
    runner.speculative_config = SimpleNamespace()
    mocker.patch.object(GPUModelRunner, "_make_buffer", staticmethod(make_buffer))
    return runner


def test_without_drafts_the_buffers_are_vllms(runner):
    runner.speculative_config = None
    assert runner._get_mamba_bufs().postprocess_align is None
    assert runner._get_mamba_bufs() is runner._get_mamba_bufs()


def test_vllm_calls_our_copies(runner, mocker):
    bufs = runner._get_mamba_bufs()
    assert runner._get_mamba_bufs() is bufs
    copies = bufs.postprocess_align
    assert isinstance(copies, OrderedStateCopies)
    launch = mocker.patch.object(StateLayout, "launch", autospec=True)
    layers = {
        name: SimpleNamespace(kv_cache=(torch.zeros(12, 5, 4), torch.zeros(12, 2, 3, 3)))
        for name in simulation.GROUPS
    }
    tables = {group: torch.zeros(REQUESTS, 9, dtype=torch.int32) for group in range(3)}
    batch = SimpleNamespace(
        block_table={
            group: SimpleNamespace(get_device_tensor=lambda _, table=table: table)
            for group, table in tables.items()
        }
    )
    accepted, counts = torch.ones(REQUESTS, dtype=torch.int32), torch.zeros(REQUESTS)
    copies.num_accepted_tokens_out[:] = 3
    mamba_utils.postprocess_mamba_align_gpu(
        bufs=bufs,
        num_reqs=2,
        num_accepted_tokens_gpu=accepted,
        num_accepted_tokens_cpu_tensor=counts,
        input_batch=batch,
        kv_cache_config=runner.kv_cache_config,
        forward_context=layers,
        mamba_state_copy_funcs=COPY_FUNCS,
    )
    layout, num_reqs, num_layers, block_size, table_stride, pointers = launch.call_args.args
    assert layout == StateLayout(5, 4, 4, (20, 4, 1), 18, 18)
    assert (num_reqs, num_layers, block_size, table_stride) == (2, len(layers), 4, 9)
    assert pointers[0] is accepted
    groups = copies.mamba_group_ids
    assert pointers[5].tolist() == [tables[group].data_ptr() for group in groups]
    names = [
        name for group in groups for name in simulation.GROUPS if simulation.GROUPS[name] == group
    ]
    addresses = [state.data_ptr() for name in names for state in layers[name].kv_cache]
    assert pointers[6].tolist() == addresses
    expected = [groups.index(simulation.GROUPS[name]) for name in names for _ in range(2)]
    assert pointers[7].tolist() == expected
    assert pointers[8] is copies.num_accepted_tokens_out
    assert counts.tolist() == [3, 3, 0, 0]  # what our kernel would have written is handed on


def test_another_kind_of_state_is_refused(runner):
    copies = runner._get_mamba_bufs().postprocess_align
    with pytest.raises(ValueError, match="the model keeps another kind of state"):
        copies.initialize_from_forward_context(runner.kv_cache_config, {}, COPY_FUNCS[::-1], [])
