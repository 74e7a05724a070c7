# SPDX-License-Identifier: Apache-2.0
"""The runner's layer over a stub of vLLM's model runner."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ascend_gdn.attention.builder import StepGDNAttentionMetadataBuilder
from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.table_layout import cumsum_block_size
from ascend_gdn.runner import model_runner as module
from ascend_gdn.runner.metrics import VARIABLE
from ascend_gdn.runner.model_runner import StepModelRunnerMixin
from both_sides.workloads import Batch, Workload, builder_arguments


class StubRunner:
    """As much of a vLLM model runner as the layer touches."""

    def __init__(self, builders_of_groups) -> None:
        self.device = torch.device("cpu")
        self.max_num_reqs, self.max_num_tokens = 8, 1024
        self.model_config = SimpleNamespace(
            hf_text_config=SimpleNamespace(linear_num_value_heads=8)
        )
        self.parallel_config = SimpleNamespace(
            tensor_parallel_size=2,
            prefill_context_parallel_size=1,
            rank=1,
            data_parallel_rank=0,
            data_parallel_index=2,
        )
        self.vllm_config = SimpleNamespace(additional_config={"gdn_table_fill": "triton"})
        self.speculative_config = None
        self.cache_config = SimpleNamespace(mamba_cache_mode="none")
        self.builders_of_groups = builders_of_groups
        self.attn_groups = []
        self.seen = []
        self.new_input_batch(first_block=10)
        self.num_accepted_tokens = SimpleNamespace(np=np.full(8, 3))
        self.mamba_state_idx = {"b": 5, "a": 2}

    def new_input_batch(self, first_block: int) -> None:
        arrays = [
            np.full((8, 1), first_block + group, dtype=np.int32)
            for group in range(len(self.builders_of_groups))
        ]
        tables = [SimpleNamespace(get_numpy_array=lambda array=array: array) for array in arrays]
        self.input_batch = SimpleNamespace(block_table=tables, req_ids=["a", "b"])

    def initialize_metadata_builders(self, kv_cache_config, kernel_block_sizes) -> None:
        self.attn_groups = [
            [SimpleNamespace(metadata_builders=builders)] for builders in self.builders_of_groups
        ]

    def _dummy_run(self, action):
        return self._build_attention_metadata(action)

    def _build_attention_metadata(self, action):
        self.seen.append(self.gdn_steps.current if self.gdn_steps else None)
        return action(self)


class Runner(StepModelRunnerMixin, StubRunner):
    pass


@pytest.fixture
def gdn_builders():
    arguments = builder_arguments(Workload("any", [1], [1]))
    return [StepGDNAttentionMetadataBuilder(**arguments) for _ in range(2)]


@pytest.fixture
def runner(mocker, gdn_builders):
    """KV cache groups: GDN, attention, GDN."""
    other = mocker.Mock()
    runner = Runner([[gdn_builders[0]], [other], [gdn_builders[1]]])
    runner.initialize_metadata_builders(None, [])
    other.bind.assert_not_called()
    assert not other.mock_calls
    return runner


def test_binds_every_gdn_builder_in_the_order_of_the_groups(runner, gdn_builders):
    assert [builder._steps for builder in gdn_builders] == [runner.gdn_steps] * 2
    assert [builder._group for builder in gdn_builders] == [0, 1]


def test_opens_a_step_around_the_build_and_closes_it(runner):
    assert runner._build_attention_metadata(lambda _: "metadata") == "metadata"
    assert runner.seen[0] is not None
    assert runner.gdn_steps.current is None
    assert runner.gdn_stats.steps == 1


def test_closes_the_step_when_the_build_raises(runner):
    def fail(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        runner._build_attention_metadata(fail)
    assert runner.gdn_steps.current is None
    runner._build_attention_metadata(lambda _: None)
    assert runner.seen[0] is not runner.seen[1]


def test_a_dummy_run_that_raises_is_over(runner):
    def fail(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        runner._dummy_run(fail)
    runner._build_attention_metadata(lambda _: None)
    assert not runner.seen[-1].idle
    assert runner.gdn_stats.steps == 1  # the dummy is none


def test_pools_fit_the_configuration(runner):
    layout = runner.gdn_steps.pool.layout
    assert (layout.max_seqs, layout.max_tokens, layout.num_groups) == (8, 1024, 2)
    assert (layout.num_spec, layout.conv_history) == (0, 0)
    assert layout.cumsum_block == cumsum_block_size(8 // 2)  # of a rank
    assert cumsum_block_size(8 // 2) != cumsum_block_size(8)
    assert len(runner.gdn_steps.decode_pool._slots) == 1  # fixed


def test_a_step_cannot_nest(runner):
    with pytest.raises(GDNContractError, match="already open"):
        runner._build_attention_metadata(lambda self: self._build_attention_metadata(lambda _: 0))
    assert runner.gdn_steps.current is None


def test_state_indices_come_from_the_groups_own_block_tables(runner, gdn_builders):
    batch = Batch(Workload("prompt", [70], [0]))
    common = batch.common_metadata()
    first, second = runner._build_attention_metadata(
        lambda _: [builder.build(0, common[0]) for builder in gdn_builders]
    )
    assert first.prefill_state_indices.tolist() == [10]
    assert second.prefill_state_indices.tolist() == [12]
    stats = runner.gdn_stats
    assert (stats.prefill_steps, stats.plans_built, stats.plans_reused) == (1, 1, 1)
    assert stats.host_ns > 0


def test_steps_without_prefill_go_to_vllm_and_plan_nothing(runner, gdn_builders):
    common = Batch(Workload("decode", [1, 1], [9, 9])).common_metadata()
    metadata = runner._build_attention_metadata(lambda _: gdn_builders[0].build(0, common[0]))
    assert (metadata.num_decodes, metadata.num_prefills) == (2, 0)
    assert (runner.gdn_stats.steps, runner.gdn_stats.prefill_steps) == (1, 0)


def test_a_dummy_run_opens_idle_steps(runner, gdn_builders):
    common = Batch(Workload("prompt", [70], [0])).common_metadata()
    metadata = runner._dummy_run(lambda _: gdn_builders[0].build(0, common[0]))
    assert metadata.prefill_state_indices.tolist() == [0]
    assert runner.seen[0].idle
    metadata = runner._build_attention_metadata(lambda _: gdn_builders[0].build(0, common[0]))
    assert metadata.prefill_state_indices.tolist() == [10]
    assert not runner.seen[1].idle


def first_blocks(inputs):
    out = np.full((2, 1, 1), -1, dtype=np.int32)
    inputs.write_blocks(slice(0, 1), out)
    return out.ravel().tolist()


def test_inputs_of_a_step(runner):
    inputs = runner._gdn_step_inputs([0, 2], idle=False)
    assert first_blocks(inputs) == [10, 12]
    assert inputs.num_accepted_tokens is None
    assert inputs.state_columns is None
    runner.speculative_config = object()
    runner.cache_config.mamba_cache_mode = "align"
    inputs = runner._gdn_step_inputs([0, 2], idle=False)
    assert inputs.num_accepted_tokens is runner.num_accepted_tokens.np
    assert inputs.state_columns.tolist() == [2, 5]
    runner.mamba_state_idx.clear()
    inputs = runner._gdn_step_inputs([0, 2], idle=True)
    assert first_blocks(inputs) == [0, 0]
    assert (inputs.num_accepted_tokens == 1).all()
    assert inputs.state_columns is None


def test_block_tables_that_the_runner_made_anew(runner, gdn_builders):
    def indices():
        common = Batch(Workload("decode", [1], [9])).common_metadata()
        build = gdn_builders[1].build
        metadata = runner._build_attention_metadata(lambda _: build(0, common[0]))
        return metadata.non_spec_state_indices_tensor.tolist()

    assert indices() == [12]
    runner.new_input_batch(first_block=20)
    assert indices() == [22]
    runner.input_batch.block_table[2].get_numpy_array()[:] = 7
    assert indices() == [7]


def test_on_cpu_the_host_fills_the_tables_whoever_is_asked(runner, gdn_builders):
    assert runner.gdn_steps.device_fill is None
    common = Batch(Workload("prompt", [70], [0])).common_metadata()
    metadata = runner._build_attention_metadata(lambda _: gdn_builders[0].build(0, common[0]))
    assert metadata.chunk_indices.tolist() == [[0, 0], [0, 1]]
    assert runner.gdn_stats.table_kernels == 0


def test_setting_up_the_kv_cache_anew_closes_the_old_pool(runner, gdn_builders):
    old = runner.gdn_steps
    runner.initialize_metadata_builders(None, [])
    assert runner.gdn_steps is not old
    assert gdn_builders[0]._steps is runner.gdn_steps
    with pytest.raises(GDNContractError, match="a closed pool"):
        old.pool.acquire()


def test_a_model_without_gdn_layers_runs_as_upstream(mocker):
    runner = Runner([[mocker.Mock()]])
    runner.initialize_metadata_builders(None, [])
    assert runner.gdn_steps is None
    assert runner._build_attention_metadata(lambda _: "metadata") == "metadata"
    assert runner.seen == [None]


def test_metrics_only_where_somebody_reads_them(runner, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    runner.publish_gdn_metrics()
    assert runner.gdn_metrics is None


def test_a_folder_that_is_not_there_costs_the_metrics_and_one_warning(
    runner, monkeypatch, mocker, tmp_path
):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "missing"))
    warning = mocker.patch.object(module.logger, "warning")
    runner.publish_gdn_metrics()
    assert runner.gdn_metrics is None
    (told,) = [call.args[0] % call.args[1:] for call in warning.call_args_list]
    assert f"got {VARIABLE}={tmp_path / 'missing'} (No such file or directory), expected" in told
    assert runner._build_attention_metadata(lambda _: "metadata") == "metadata"


def test_metrics_are_told_of_each_step_until_they_end(runner, monkeypatch, mocker, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    made = mocker.patch.object(module, "GDNMetrics")
    runner.publish_gdn_metrics()
    made.assert_called_once_with(runner.gdn_stats, 1, 2)
    for _ in range(2):
        runner._build_attention_metadata(lambda _: None)
    assert made.return_value.step_built.call_count == 2
    runner.publish_gdn_metrics()  # after another warm-up
    made.return_value.end.assert_called_once_with()
    runner.end_gdn_metrics()
    runner.end_gdn_metrics()
    assert made.return_value.end.call_count == 2
    runner._build_attention_metadata(lambda _: None)
    assert made.return_value.step_built.call_count == 2
