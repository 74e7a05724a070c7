# SPDX-License-Identifier: Apache-2.0
"""Run one real vLLM engine over some prompts, in a process of its own.

A process each, because vLLM registers out-of-tree layers per process: vLLM's own worker and ours
cannot follow one another in one.

    job.py JOB.json RESULT.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

OUR_WORKER = "ascend_gdn.runner.CPUWorker"
ENVIRONMENT = os.environ | {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    # vLLM compiles its sampler even with enforce_eager: half a minute a process.
    "TORCH_COMPILE_DISABLE": "1",
}


@dataclass
class Job:
    """What to run."""

    model: str
    prompts: list[list[int]]
    dtype: str = "float32"
    worker_cls: str = OUR_WORKER
    """``"auto"`` for vLLM's own."""
    max_tokens: int = 32
    engine: dict[str, object] = field(default_factory=dict)
    """More arguments of ``LLM``, or other values for those given below."""
    env: dict[str, str | None] = field(default_factory=dict)
    """More environment variables, or other values for those given below; None unsets one."""
    sampling: dict[str, object] = field(default_factory=dict)
    """More arguments of ``SamplingParams``, or other values for those given below."""
    rounds: list[int] = field(default_factory=list)
    """How many prompts each ``generate`` takes, one after the other; by default one takes all."""
    counts: bool = True
    """Whether to ask the worker what it did, which vLLM's own (``"auto"``) does not count."""


@dataclass
class Result:
    """What came out, a prompt each."""

    tokens: list[list[int]]
    prompt_logprobs: list[list[float]]
    """Empty where the sampling parameters ask for none."""
    stats: dict[str, float]
    """Of the first worker."""
    worker_stats: list[dict[str, float]] = field(default_factory=list)
    """Of every worker, in the order of their ranks."""
    logprobs: list[list[float]] = field(default_factory=list)
    """Of the generated tokens, if the sampling parameters ask for them."""
    cached_tokens: list[int] = field(default_factory=list)
    """Prompt tokens that the prefix cache spared."""
    counters: dict[str, float] = field(default_factory=dict)
    """vLLM's metrics that count, if the engine logs its statistics."""
    log: str = ""


def run(job: Job, folder: Path, timeout: float = 600, script: str = __file__) -> Result:
    """Run ``job`` in a new process; raises ``AssertionError`` with its output if it fails."""
    values, log = run_script(script, job, folder, timeout=timeout)
    return Result(**values, log=log)


def run_script(
    script: str, job: Job, folder: Path, *arguments: str, timeout: float = 600
) -> tuple[Any, str]:
    """What ``script`` writes as its result, and its output; raises as ``run`` does."""
    process = start(job, folder, timeout, script, arguments)
    assert process.returncode == 0, f"the engine failed:\n{process.stdout[-6000:]}"
    return json.loads((folder / "result.json").read_text()), process.stdout


def start(
    job: Job,
    folder: Path,
    timeout: float = 600,
    script: str = __file__,
    arguments: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run ``job`` in a new process, whether it succeeds or not.

    Raises ``AssertionError`` if a process outlives it. A ``script`` is given what this file is, and
    then ``arguments``.
    """
    from .processes import run_to_the_end  # not above: as a script, this file is in no package

    (folder / "job.json").write_text(json.dumps(asdict(job)))
    command = [sys.executable, script, str(folder / "job.json"), str(folder / "result.json")]
    return run_to_the_end(
        [*command, *arguments],
        {name: value for name, value in (ENVIRONMENT | job.env).items() if value is not None},
        folder,
        timeout,
    )


def read_job(job_file: str) -> Job:
    return Job(**json.loads(Path(job_file).read_text()))


def engine_arguments(job: Job) -> dict[str, Any]:
    return {
        "model": job.model,
        "dtype": job.dtype,
        "worker_cls": job.worker_cls,
        "enforce_eager": True,
        "mamba_ssm_cache_dtype": "float32",
        "max_model_len": 4096,
    } | job.engine


def make_llm(job: Job) -> LLM:
    from vllm import LLM

    return LLM(**engine_arguments(job))


def parameters_of(job: Job) -> SamplingParams:
    from vllm import SamplingParams

    sampling = {
        "max_tokens": job.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "prompt_logprobs": 0,
    }
    return SamplingParams(**(sampling | job.sampling))


def generate(llm: LLM, job: Job) -> list[RequestOutput]:
    """A finished output for each prompt."""
    parameters = parameters_of(job)
    prompts = iter({"prompt_token_ids": prompt} for prompt in job.prompts)
    return [
        output
        for count in job.rounds or [len(job.prompts)]
        for output in llm.generate(list(islice(prompts, count)), parameters, use_tqdm=False)
    ]


def collect(llm: LLM, job: Job, outputs: Iterable[RequestOutput]) -> dict[str, Any]:
    """The fields of :class:`Result`, without the log."""
    from vllm.v1.metrics.reader import Counter

    counting = job.counts and job.worker_cls != "auto"
    values = values_of(list(outputs), llm.collective_rpc("gdn_stats") if counting else [])
    if job.engine.get("disable_log_stats") is False:
        metrics = llm.get_metrics()
        values["counters"] = {
            each.name: each.value for each in metrics if isinstance(each, Counter)
        }
    return values


def values_of(outputs: list[RequestOutput], stats: list[dict[str, float]]) -> dict[str, Any]:
    """As :func:`collect`, from what the workers said; without vLLM's counters."""
    result = Result(
        tokens=[list(output.outputs[0].token_ids) for output in outputs],
        prompt_logprobs=[
            [
                row[token].logprob
                for token, row in zip(
                    output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True
                )
            ]
            for output in outputs
            if output.prompt_logprobs is not None
        ],
        stats=stats[0] if stats else {},
        worker_stats=stats,
        logprobs=[
            [
                row[token].logprob
                for token, row in zip(answer.token_ids, answer.logprobs, strict=True)
            ]
            for answer in (output.outputs[0] for output in outputs)
            if answer.logprobs is not None
        ],
        cached_tokens=[output.num_cached_tokens for output in outputs],
    )
    values = asdict(result)
    del values["log"]  # the parent has it
    return values


def main(job_file: str, result_file: str) -> None:
    job = read_job(job_file)
    llm = make_llm(job)
    values = collect(llm, job, generate(llm, job))
    Path(result_file).write_text(json.dumps(values))
    llm.llm_engine.engine_core.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
