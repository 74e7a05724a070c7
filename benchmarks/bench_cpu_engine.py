# SPDX-License-Identifier: Apache-2.0
"""Throughput of the real vLLM engine on CPU: our worker against vLLM's own, on the same model.

    benchmarks/bench_cpu_engine.py [--model DIR] [--starts 3] [--rounds 5] [--json FILE]

Both engines are up at once, a process each, and take turns round by round, since the speed of a
shared machine drifts; both are started anew several times, since processes on it differ in speed,
too. The ratio is the median over all pairs of neighbouring rounds. Without --model a tiny random
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
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from types import TracebackType

from rich.console import Console
from rich.table import Table

from command_line import positive_int

WORKERS = {"vLLM": "auto", "ascend-gdn": "ascend_gdn.runner.CPUWorker"}
WORKLOADS = {
    # name: requests, prompt tokens, generated tokens, tokens that count
    "prefill, 32 x 1024": (32, 1024, 1, 32 * 1024),
    "decode, 16 x 256": (16, 32, 256, 16 * 256),
}


def serve_rounds(model: str, worker_cls: str) -> None:
    """The child: run the workloads named on stdin, answer with the seconds of each."""
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
    print("READY", flush=True)
    for line in sys.stdin:
        requests, prompt_tokens, generated, _ = WORKLOADS[line.strip()]
        prompts = [
            {"prompt_token_ids": rng.integers(3, 1000, prompt_tokens).tolist()}
            for _ in range(requests)
        ]
        sampling = SamplingParams(max_tokens=generated, temperature=0, ignore_eos=True)
        started = perf_counter()
        llm.generate(prompts, sampling, use_tqdm=False)
        print(f"SECONDS {perf_counter() - started}", flush=True)


def preloads() -> str:
    """The libraries that vLLM has its CPU workers preload (platforms/cpu.py, 0.23.0)."""
    found = []
    for package, pattern in (("vllm", "libs/libtcmalloc*.so*"), ("torch", "lib/libgomp*.so*")):
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None
        found += sorted(Path(spec.origin).parent.glob(pattern))[:1]
    return ":".join(map(str, found))


class Engine:
    """One engine in a process of its own."""

    def __init__(self, model: str, worker_cls: str, log: Path) -> None:
        self.log = log
        environment = os.environ | {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # idle means idle: no process polls
            # Of an eager model vLLM would still compile its random sampler, which nothing here
            # uses: two minutes a start, and a C++ compiler.
            "TORCH_COMPILE_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "LD_PRELOAD": preloads(),
        }
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--engine", worker_cls, "--model", model],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._answer("READY")

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()

    def seconds(self, workload: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(workload + "\n")
        self.process.stdin.flush()
        return float(self._answer("SECONDS "))

    def _answer(self, start: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line.removeprefix(start)
        raise SystemExit(f"the engine ended:\n{self.log.read_text()[-4000:]}")


Samples = dict[str, list[tuple[float, float]]]
"""For each workload the seconds of (vLLM, ascend-gdn) in neighbouring rounds."""


def measure(console: Console, model: str, logs: Path, rounds: int) -> Samples:
    """Start both engines and let them take turns."""
    samples: Samples = {workload: [] for workload in WORKLOADS}
    with (
        Engine(model, WORKERS["vLLM"], logs / "vllm.log") as stock,
        Engine(model, WORKERS["ascend-gdn"], logs / "ascend-gdn.log") as ours,
    ):
        for workload, pairs in samples.items():
            for done in range(rounds + 1):
                pair = stock.seconds(workload), ours.seconds(workload)
                if done:  # the first is the warm-up
                    pairs.append(pair)
                    console.print(f"{workload}: {pair[0]:.2f} s, {pair[1]:.2f} s")
    return samples


def figures_of(workload: str, pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Both sides' tokens a second, and how many times as many ours are."""
    tokens = WORKLOADS[workload][3]
    return {
        "vllm": tokens / statistics.median(pair[0] for pair in pairs),
        "ascend_gdn": tokens / statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[0] / pair[1] for pair in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a Qwen3-Next checkpoint")
    parser.add_argument("--starts", type=positive_int, default=3, help="of both engines")
    parser.add_argument(
        "--rounds", type=positive_int, default=5, help="pairs of each workload in a start"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--engine", help=argparse.SUPPRESS)  # the child's part
    arguments = parser.parse_args()
    if arguments.engine:
        serve_rounds(arguments.model, arguments.engine)
        return
    if arguments.model and not Path(arguments.model, "config.json").is_file():
        parser.error(f"--model: got {arguments.model!r}, expected a folder with config.json")

    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if model is None:
            model = folder + "/model"
            maker = Path(__file__).parent.parent / "examples" / "tiny_checkpoint.py"
            subprocess.run([sys.executable, str(maker), model], check=True)
        starts = [
            measure(console, model, Path(folder), arguments.rounds) for _ in range(arguments.starts)
        ]
    figures = {
        workload: figures_of(workload, [pair for samples in starts for pair in samples[workload]])
        for workload in WORKLOADS
    }
    table = Table(title="tokens a second, real engine on CPU")
    for column in ("workload", *WORKERS, "ratio"):
        table.add_column(column, justify="left" if column == "workload" else "right")
    for workload, row in figures.items():
        table.add_row(
            workload, f"{row['vllm']:,.0f}", f"{row['ascend_gdn']:,.0f}", f"{row['ratio']:.2f}x"
        )
    console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
