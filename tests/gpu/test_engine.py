# SPDX-License-Identifier: Apache-2.0
"""The real engine on a GPU: our worker answers as vLLM's own does, with graphs and with MTP."""

from __future__ import annotations

from .device import require_cuda

require_cuda()

import json
import re
from pathlib import Path

import pytest
import torch

import recall_task
from recall_task import LONGEST_ANSWER, held_out
from tiny_checkpoint import TinySizes, write_checkpoint

from ..engine.job import Job, Result, run, run_script

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

MODEL = Path(recall_task.__file__).parent / "recall_model"
BUDGETS_JOB = Path(__file__).parents[1] / "engine" / "budgets_job.py"
CASES = held_out(12, (8, 64, 250, 1000, 2000))
OUR_WORKER = "ascend_gdn.runner.GPUWorker"
ENGINE = {
    "max_num_seqs": 16,
    "max_num_batched_tokens": 1024,
    "gpu_memory_utilization": 0.06,
    "kv_cache_memory_bytes": 2**30,  # so that engines of several tests can share a GPU
    "attention_backend": "TRITON_ATTN",
    "moe_backend": "triton",
    "disable_log_stats": False,
}
EAGER: dict[str, object] = {}
DECODE_GRAPHS = {
    "enforce_eager": False,
    "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"},
}
PIECEWISE_GRAPHS = {
    "enforce_eager": False,
    "compilation_config": {"cudagraph_mode": "FULL_AND_PIECEWISE"},
}
MTP = {"speculative_config": {"method": "qwen3_next_mtp", "num_speculative_tokens": 3}}
PREFIX_CACHING = {"enable_prefix_caching": True, "mamba_cache_mode": "align"}
GDN_KERNELS = "conv1d|post_conv|chunk|merge_16x16|recompute_w_u|delta_rule"
ENV = {"CUDA_VISIBLE_DEVICES": None, "TORCH_COMPILE_DISABLE": None}


def job(worker_cls: str, engine: dict[str, object], rounds: int = 1) -> Job:
    prompts = [case.prompt for case in CASES] * rounds
    if worker_cls != OUR_WORKER:  # for "auto" it takes FlashInfer, installed or not
        engine = {"gdn_prefill_backend": "triton"} | engine
    return Job(
        str(MODEL),
        prompts,
        dtype="bfloat16",
        worker_cls=worker_cls,
        max_tokens=LONGEST_ANSWER,
        engine=ENGINE | engine,
        env=ENV,
        sampling={"ignore_eos": False},
        rounds=[len(CASES)] * rounds,
    )


def share_right(result: Result) -> float:
    answers = [case.answer for case in CASES] * (len(result.tokens) // len(CASES))
    right = [found == answer for found, answer in zip(result.tokens, answers, strict=True)]
    print(f"{sum(right)} of {len(right)} answers right")
    return sum(right) / len(right)


def assert_same_answers(stock: Result, ours: Result) -> None:
    assert ours.tokens == stock.tokens
    differences = [
        abs(left - right)
        for lefts, rights in zip(stock.prompt_logprobs, ours.prompt_logprobs, strict=True)
        for left, right in zip(lefts, rights, strict=True)
    ]
    mean = sum(differences) / len(differences)
    print(f"logprob difference to vLLM's worker: mean {mean:.4f}, largest {max(differences):.1e}")
    assert mean < 0.04  # of prompts that are random; our kernels round less often than vLLM's


@pytest.mark.parametrize("mtp", [{}, MTP], ids=["plain", "MTP"])
@pytest.mark.parametrize(
    "graphs",
    [EAGER, DECODE_GRAPHS, PIECEWISE_GRAPHS],
    ids=["eager", "decode graphs", "piecewise graphs"],
)
def test_answers_as_vllms_own_worker(graphs, mtp, tmp_path):
    stock, ours = (
        run(job(worker, graphs | mtp), tmp_path, timeout=900) for worker in ("auto", OUR_WORKER)
    )
    assert all(share_right(result) >= 0.98 for result in (stock, ours))
    assert_same_answers(stock, ours)
    stats = ours.stats
    assert stats["plans_built"] == stats["prefill_steps"] > 0
    assert stats["bytes_copied"] > 0 == stats["table_kernels"]
    if mtp:
        accepted = ours.counters["vllm:spec_decode_num_accepted_tokens"]
        assert accepted / ours.counters["vllm:spec_decode_num_draft_tokens"] > 0.3


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param({"max_num_batched_tokens": 64}, id="chunked at 64"),
        pytest.param({"additional_config": {"gdn_table_fill": "triton"}}, id="Triton fill"),
        pytest.param({"async_scheduling": False}, id="synchronous"),
        pytest.param({"gdn_prefill_backend": "triton"}, id="vLLM's kernels"),
        pytest.param(PREFIX_CACHING, id="prefix cache hit"),
        pytest.param(
            {
                **MTP,
                **PREFIX_CACHING,
                "scheduler_cls": "ascend_gdn.runner.align_scheduler.AlignedAsyncScheduler",
                "async_scheduling": True,
            },
            id="prefix cache hit with MTP",
        ),
        pytest.param(
            {
                "num_gpu_blocks_override": 80,
                "scheduler_reserve_full_isl": False,
                "long_prefill_token_threshold": 64,
            },
            id="after preemption",
        ),
    ],
)
def test_right_in_every_mode(engine, tmp_path):
    rounds = 2 if "enable_prefix_caching" in engine else 1
    # With prompt logprobs vLLM does not look into the prefix cache.
    each = job(OUR_WORKER, DECODE_GRAPHS | engine, rounds)
    each.sampling["prompt_logprobs"] = None
    result = run(each, tmp_path, timeout=900)
    assert share_right(result) >= 0.98
    if rounds == 2:
        assert sum(result.cached_tokens) > 0
    if "num_gpu_blocks_override" in engine:
        assert result.counters["vllm:num_preemptions"] > 0
    if "additional_config" in engine:
        assert result.stats["table_kernels"] == result.stats["plans_built"] > 0


def test_answers_as_vllms_own_worker_with_flashinfer(tmp_path):
    pytest.importorskip("flashinfer", reason="FlashInfer is not installed")
    # The trained model's heads are not of the 128 columns that FlashInfer takes.
    model = write_checkpoint(tmp_path / "model", TinySizes(layers=4))
    engine = {"gdn_prefill_backend": "flashinfer", "enable_flashinfer_autotune": False}
    results = []
    for worker in ("auto", OUR_WORKER):
        each = job(worker, DECODE_GRAPHS | MTP | engine | {"max_num_batched_tokens": 256})
        each.model, each.max_tokens = str(model), 16
        results.append(run(each, tmp_path, timeout=900))
        assert "Using FlashInfer GDN prefill kernel" in results[-1].log
    assert_same_answers(*results)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_right_on_two_gpus(tmp_path):
    result = run(
        job(OUR_WORKER, DECODE_GRAPHS | MTP | {"tensor_parallel_size": 2}), tmp_path, timeout=900
    )
    assert share_right(result) >= 0.98
    first, second = result.worker_stats
    assert first["plans_built"] == second["plans_built"] > 0
    assert result.counters["vllm:spec_decode_num_accepted_tokens"] > 0


@pytest.mark.parametrize("mtp", [{}, MTP], ids=["plain", "MTP"])
def test_no_prompt_waits_for_a_gdn_kernel_to_be_compiled(mtp, tmp_path):
    # Prompts of a batch, then with decodes before them and of a multiple of 16.
    each = job(OUR_WORKER, DECODE_GRAPHS | mtp | {"max_num_batched_tokens": 512})
    each.prompts += [each.prompts[-1][-16 * count :] for count in range(1, 9)]
    each.sampling["prompt_logprobs"] = None
    each.rounds = [1, len(each.prompts) - 1]
    log = run(each, tmp_path, timeout=900).log
    assert "Kernel JIT monitor activated" in log
    late = re.findall(r"JIT compilation during inference: (\w+)", log)
    print("compiled for a request:", *late)  # vLLM's attention, experts, sampler
    assert [kernel for kernel in late if re.search(GDN_KERNELS, kernel)] == []


@pytest.mark.parametrize("async_scheduling", [False, True], ids=["synchronous", "asynchronous"])
def test_requests_left_out_of_steps_go_on_where_they_were(async_scheduling, tmp_path):
    each = job(OUR_WORKER, DECODE_GRAPHS | MTP | {"async_scheduling": async_scheduling})
    each.sampling["prompt_logprobs"] = None
    plan = {"started": [], "set": [], "drawn": [0, 1], "few": 0}
    values, _ = run_script(str(BUDGETS_JOB), each, tmp_path, json.dumps(plan), timeout=900)
    assert values["returned"] > 0
    for result in (Result(**drawn) for drawn in values["drawn"]):
        assert share_right(result) >= 0.98
        assert result.counters["vllm:spec_decode_num_accepted_tokens"] > 0
