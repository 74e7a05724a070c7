# SPDX-License-Identifier: Apache-2.0
"""What our NPU worker checks, refuses and repairs before vllm-ascend's is made."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from vllm_ascend.worker.model_runner_v1 import NPUModelRunner

import ascend_gdn.runner
from ascend_gdn.runner import versions
from ascend_gdn.runner.checks.errors import IncompatibleStackError
from ascend_gdn.runner.checks.npu_refusals import (
    refuse_unsupported_on_ascend,
    repair_all2all_backend,
)
from ascend_gdn.runner.checks.seams import check_seams
from ascend_gdn.runner.versions import ascend_version, check_ascend_version

VERSION, STACK = ascend_version(), check_ascend_version()
NEXT = STACK.vllm == "0.30.0"
StepNPUModelRunner = VERSION.StepNPUModelRunner


def config(**additional) -> SimpleNamespace:
    return SimpleNamespace(
        additional_config=additional,
        parallel_config=SimpleNamespace(
            prefill_context_parallel_size=1,
            decode_context_parallel_size=1,
            all2all_backend="allgather_reducescatter",
        ),
        compilation_config=SimpleNamespace(pass_config=SimpleNamespace(enable_sp=False)),
        cache_config=SimpleNamespace(enable_prefix_caching=False),
        speculative_config=None,
    )


def refuse(vllm_config, is_310p=False, has_gdn_layers=True) -> None:
    refuse_unsupported_on_ascend(
        vllm_config, is_310p, *VERSION.refusals(vllm_config, has_gdn_layers)
    )


def test_the_installed_version_is_the_one_we_build_on():
    check_ascend_version()
    check_seams(VERSION.ascend_seams())


@pytest.mark.parametrize(
    "version", ["0.22.0", "0.24.0rc1", "0.28.0rc1", "0.23.0rc1", "0.23.1", "the other stack's"]
)
def test_another_version_is_refused(version):
    if version == "the other stack's":
        version = "0.23.0" if NEXT else "0.30.0rc2"
    with pytest.raises(
        IncompatibleStackError, match=f"got vllm-ascend {version} over vLLM {STACK.vllm}, expected"
    ):
        check_ascend_version(version)


def test_another_version_is_named_before_anything_of_it_is_imported(mocker):
    installed = {"vllm": STACK.vllm, "vllm-ascend": "0.24.0"}
    mocker.patch.object(versions, "installed_version", installed.__getitem__)
    with pytest.raises(IncompatibleStackError, match=r"got vllm-ascend 0\.24\.0"):
        _ = ascend_gdn.runner.NPUWorker


def test_every_seam_is_checked():
    for function, parameters in VERSION.ascend_seams().items():
        with pytest.raises(IncompatibleStackError, match=function.__name__):
            check_seams({function: f"renamed {parameters}"})


def test_a_plain_configuration_is_taken():
    refuse(config())
    refuse(config(xlite_graph_config={"enabled": False}))


def test_what_needs_another_worker_is_refused():
    with pytest.raises(ValueError, match=r"got a 310P, expected a 910B .* leave out --worker-cls"):
        refuse(config(), is_310p=True)
    with pytest.raises(ValueError, match=r"Xlite worker; switch it off, or leave out --worker-cls"):
        refuse(config(xlite_graph_config={"enabled": True}))


@pytest.mark.skipif(NEXT, reason="vllm-ascend 0.30.0rc2's platform refuses it itself")
def test_what_prefill_context_parallelism_does_not_go_with_is_refused():
    vllm_config = config()
    vllm_config.parallel_config.prefill_context_parallel_size = 2
    refuse(vllm_config)
    vllm_config.speculative_config = SimpleNamespace()
    vllm_config.cache_config.enable_prefix_caching = True
    refuse(vllm_config, has_gdn_layers=False)
    with pytest.raises(ValueError, match="-size 2 with a --speculative-config") as refused:
        refuse(vllm_config)
    assert "-size 2 with prefix caching" in str(refused.value)


@pytest.mark.skipif(not NEXT, reason="it was run on vllm-ascend 0.23.0")
def test_decode_context_parallelism_is_refused_where_it_was_not_run():
    vllm_config = config()
    vllm_config.parallel_config.decode_context_parallel_size = 2
    refuse(vllm_config, has_gdn_layers=False)
    with pytest.raises(ValueError, match=r"got --decode-context-parallel-size 2 .* leave it out"):
        refuse(vllm_config)


def test_the_all_to_all_backend_is_that_of_vllm_ascends_own_worker():
    vllm_config = config()
    repair_all2all_backend(vllm_config)
    assert vllm_config.parallel_config.all2all_backend == "flashinfer_all2allv"


def test_it_is_repaired_where_vllm_ascend_leaves_it():
    vllm_config = config()
    VERSION.repair(vllm_config)
    found = vllm_config.parallel_config.all2all_backend
    assert found == ("allgather_reducescatter" if NEXT else "flashinfer_all2allv")


def test_the_all_to_all_backend_is_left_alone_under_sequence_parallelism():
    vllm_config = config()
    vllm_config.compilation_config.pass_config.enable_sp = True
    repair_all2all_backend(vllm_config)
    assert vllm_config.parallel_config.all2all_backend == "allgather_reducescatter"


@pytest.mark.parametrize(
    ("scheduled", "computed", "prompt", "drafting", "expected"),
    [
        pytest.param([1, 1], [9, 8], [5, 8], 0, None, id="decodes"),
        pytest.param([4, 4], [9, 8], [5, 8], 2, None, id="drafts"),
        pytest.param([4, 4], [9, 8], [5, 8], 1, False, id="K + 1 tokens computed again"),
        pytest.param([4, 4], [9, 4], [5, 8], 1, False, id="a last chunk of K + 1 tokens"),
        pytest.param([1, 1], [9, 0], [5, 1], 0, False, id="a prompt of one token"),
        pytest.param([1, 1], [9, 7], [5, 8], 0, False, id="a remainder of one token"),
        pytest.param(
            [1, 1], [9, 7], [5, 9], 0, False, id="a context-parallel rank's one token of two"
        ),
    ],
)
def test_no_decode_graph_while_a_request_prefills(
    mocker, scheduled, computed, prompt, drafting, expected
):
    upstream = mocker.patch.object(NPUModelRunner, "_determine_batch_execution_and_padding")
    runner = StepNPUModelRunner.__new__(StepNPUModelRunner)
    runner.num_drafting = drafting
    runner.input_batch = SimpleNamespace(  # the last row is past the batch's
        num_computed_tokens_cpu=np.array([*computed, 0]),
        num_prompt_tokens=np.array([*prompt, 7]),
    )
    scheduled = np.array(scheduled)
    runner._determine_batch_execution_and_padding(
        int(scheduled.sum()), 2, scheduled, max_num_scheduled_tokens=4, use_cascade_attn=False
    )
    assert upstream.call_args.kwargs["force_uniform_decode"] is expected
    runner._determine_batch_execution_and_padding(
        8, 2, scheduled, max_num_scheduled_tokens=4, use_cascade_attn=False,
        force_uniform_decode=True,
    )  # fmt: skip
    assert upstream.call_args.kwargs["force_uniform_decode"] is True  # a graph is being captured
