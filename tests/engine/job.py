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
from dataclasses import asdict, dataclass, field
from pathlib import Path

OUR_WORKER = "ascend_gdn.runner.CPUWorker"


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
    """More arguments of ``LLM``."""


@dataclass
class Result:
    """What came out, a prompt each."""

    tokens: list[list[int]]
    prompt_logprobs: list[list[float]]
    stats: dict[str, float]
    log: str = ""


def run(job: Job, folder: Path, timeout: float = 600) -> Result:
    """Run ``job`` in a new process; raises ``AssertionError`` with its output if it fails."""
    process = start(job, folder, timeout)
    assert process.returncode == 0, f"the engine failed:\n{process.stdout[-6000:]}"
    return Result(**json.loads((folder / "result.json").read_text()), log=process.stdout)


def start(job: Job, folder: Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run ``job`` in a new process, whether it succeeds or not."""
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        # vLLM compiles its sampler even with enforce_eager: half a minute a process.
        "TORCH_COMPILE_DISABLE": "1",
    }
    return subprocess.run(
        [sys.executable, __file__, str(folder / "job.json"), str(folder / "result.json")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


def main(job_file: str, result_file: str) -> None:
    from vllm import LLM, SamplingParams

    job = Job(**json.loads(Path(job_file).read_text()))
    llm = LLM(
        job.model,
        dtype=job.dtype,
        worker_cls=job.worker_cls,
        enforce_eager=True,
        mamba_ssm_cache_dtype="float32",
        max_model_len=4096,
        **job.engine,
    )
    outputs = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in job.prompts],
        SamplingParams(
            max_tokens=job.max_tokens, temperature=0, ignore_eos=True, prompt_logprobs=0
        ),
        use_tqdm=False,
    )
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
        ],
        stats={} if job.worker_cls == "auto" else llm.collective_rpc("gdn_stats")[0],
    )
    values = asdict(result)
    del values["log"]  # the parent has it
    Path(result_file).write_text(json.dumps(values))


if __name__ == "__main__":
    main(*sys.argv[1:])
