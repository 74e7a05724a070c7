# SPDX-License-Identifier: Apache-2.0
"""Throughput of the real vLLM engine on CPU: our worker against vLLM's own, on the same model.

    benchmarks/bench_cpu_engine.py [--model DIR] [--starts 2] [--rounds 5] [--json FILE]

Each side gets a fresh engine for every start, in turn (A B A B), and runs each workload some rounds
after a warm-up; the figures are medians over all rounds of all starts. Without --model a tiny random
Qwen3-Next in bfloat16 is made, the one dtype that vLLM's own GDN layers take on CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.table import Table

WORKERS = {"vLLM": "auto", "ascend-gdn": "ascend_gdn.runner.CPUWorker"}
WORKLOADS = {
    # name: requests, prompt tokens, generated tokens, tokens that count
    "prefill, 32 x 1024": (32, 1024, 1, 32 * 1024),
    "decode, 16 x 256": (16, 32, 256, 16 * 256),
}
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def run_engine(model: str, worker_cls: str, rounds: int) -> None:
    """Measure one engine; prints the seconds of each round of each workload as JSON."""
    import numpy as np
    from vllm import LLM, SamplingParams

    llm = LLM(
        model,
        dtype="bfloat16",
        worker_cls=worker_cls,
        enforce_eager=True,
        mamba_ssm_cache_dtype="float32",
        max_model_len=2048,
        max_num_seqs=32,
    )
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {}
    for name, (requests, prompt_tokens, generated, _) in WORKLOADS.items():
        sampling = SamplingParams(max_tokens=generated, temperature=0, ignore_eos=True)
        seconds[name] = []
        for _ in range(rounds + 1):
            prompts = [
                {"prompt_token_ids": rng.integers(3, 1000, prompt_tokens).tolist()}
                for _ in range(requests)
            ]
            started = perf_counter()
            llm.generate(prompts, sampling, use_tqdm=False)
            seconds[name].append(perf_counter() - started)
        del seconds[name][0]  # the warm-up
    print("SECONDS " + json.dumps(seconds))


def engine_seconds(model: str, worker_cls: str, rounds: int) -> dict[str, list[float]]:
    """Run :func:`run_engine` in a process of its own."""
    process = subprocess.run(
        [sys.executable, __file__, "--engine", worker_cls, "--model", model]
        + ["--rounds", str(rounds)],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = [line for line in process.stdout.splitlines() if line.startswith("SECONDS ")]
    if process.returncode or not lines:
        raise SystemExit(f"the engine with worker {worker_cls} failed:\n{process.stdout[-4000:]}")
    seconds: dict[str, list[float]] = json.loads(lines[0].removeprefix("SECONDS "))
    return seconds


def compare(console: Console, model: str, starts: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return tokens a second for each workload and side."""
    samples: dict[str, dict[str, list[float]]] = {
        workload: {side: [] for side in WORKERS} for workload in WORKLOADS
    }
    for start in range(starts):
        for side, worker_cls in WORKERS.items():
            console.print(f"start {start + 1} of {starts}: {side}", highlight=False)
            for workload, seconds in engine_seconds(model, worker_cls, rounds).items():
                samples[workload][side] += seconds
    return {
        workload: {
            side: WORKLOADS[workload][3] / statistics.median(seconds)
            for side, seconds in sides.items()
        }
        for workload, sides in samples.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a Qwen3-Next checkpoint")
    parser.add_argument("--starts", type=int, default=2, help="engines a side")
    parser.add_argument("--rounds", type=int, default=5, help="of each workload in an engine")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--engine", help=argparse.SUPPRESS)  # the child's part
    arguments = parser.parse_args()
    if arguments.engine:
        run_engine(arguments.model, arguments.engine, arguments.rounds)
        return

    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if model is None:
            model = folder + "/model"
            maker = Path(__file__).parent.parent / "examples" / "tiny_checkpoint.py"
            subprocess.run([sys.executable, str(maker), model], check=True)
        figures = compare(console, model, arguments.starts, arguments.rounds)
    table = Table(title="tokens a second, real engine on CPU")
    for column in ("workload", *WORKERS, "ratio"):
        table.add_column(column, justify="left" if column == "workload" else "right")
    for workload, sides in figures.items():
        stock, ours = (sides[side] for side in WORKERS)
        table.add_row(workload, f"{stock:,.0f}", f"{ours:,.0f}", f"{ours / stock:.2f}x")
    console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
