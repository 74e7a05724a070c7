# SPDX-License-Identifier: Apache-2.0
"""Throughput of the real vLLM engine on CPU: our worker against vLLM's own, on the same model.

    benchmarks/bench_cpu_engine.py [--model DIR] [--prefill 32x1024] [--decode 16x256]
                                   [--starts 3] [--rounds 5] [--json FILE]

vLLM's worker in bfloat16, the one dtype that its GDN layers take on CPU, and ours in bfloat16 and
float32. All engines are up at once, a process each, and take turns round by round, another one
first each time, since the speed of a shared machine drifts; all are started anew several times,
since processes on it differ in speed, too. A ratio is the median over all rounds. Without --model
a tiny random Qwen3-Next is made. Where vLLM's worker cannot start a mixture of experts by itself
(CPUs without AVX-512) it is given our correction of that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from types import TracebackType

from rich.console import Console
from rich.table import Table

from command_line import positive_int

OUR_WORKER = "ascend_gdn.runner.CPUWorker"
SIDES = {
    "vLLM": ("auto", "bfloat16"),
    "ascend-gdn": (OUR_WORKER, "bfloat16"),
    "ascend-gdn, float32": (OUR_WORKER, "float32"),
}


@dataclass(frozen=True)
class Workload:
    name: str
    requests: int
    prompt_tokens: int
    generated: int

    @property
    def tokens(self) -> int:
        """Those that count: of the prompts in a prefill, else the generated ones."""
        return self.requests * (self.prompt_tokens if self.generated == 1 else self.generated)


def counts(text: str) -> tuple[int, int]:
    """``8x1024``: requests, tokens of each."""
    requests, _, tokens = text.partition("x")
    return positive_int(requests), positive_int(tokens)


def serve_rounds(model: str, worker_cls: str, dtype: str) -> None:
    """The child: run the workloads given on stdin, answer with the seconds of each."""
    import numpy as np
    from vllm import LLM, SamplingParams
    from vllm.model_executor.layers.activation import SiluAndMul

    from ascend_gdn.runner.upstream.moe_activation import ContextFreeSiluAndMul
    from ascend_gdn.runner.worker import register_out_of_tree

    register_out_of_tree(ContextFreeSiluAndMul, SiluAndMul)
    llm = LLM(
        model,
        dtype=dtype,
        worker_cls=worker_cls,
        enforce_eager=True,
        mamba_ssm_cache_dtype="float32",
        max_model_len=2048,
        max_num_seqs=32,
    )
    rng = np.random.default_rng(0)
    print("READY", flush=True)
    for line in sys.stdin:
        work = Workload(**json.loads(line))
        prompts = [
            {"prompt_token_ids": rng.integers(3, 1000, work.prompt_tokens).tolist()}
            for _ in range(work.requests)
        ]
        sampling = SamplingParams(max_tokens=work.generated, temperature=0, ignore_eos=True)
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

    def __init__(self, model: str, worker_cls: str, dtype: str, log: Path) -> None:
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
                [sys.executable, __file__, "--engine", worker_cls, dtype, "--model", model],
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

    def seconds(self, workload: Workload) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(workload)) + "\n")
        self.process.stdin.flush()
        return float(self._answer("SECONDS "))

    def _answer(self, start: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line.removeprefix(start)
        raise SystemExit(f"the engine ended:\n{self.log.read_text()[-4000:]}")


Round = dict[str, float]
"""The seconds of each side."""


def measure(
    console: Console, model: str, workloads: list[Workload], logs: Path, rounds: int
) -> list[list[Round]]:
    """Start an engine a side and let them take turns; returns the rounds of each workload."""
    with ExitStack() as stack:
        engines = {
            side: stack.enter_context(Engine(model, *how, logs / f"{side}.log"))
            for side, how in SIDES.items()
        }
        samples: list[list[Round]] = []
        for workload in workloads:
            samples.append([])
            for number in range(rounds + 1):
                first = number % len(SIDES)
                order = [*SIDES][first:] + [*SIDES][:first]
                seconds = {side: engines[side].seconds(workload) for side in order}
                if number:  # the first is the warm-up
                    samples[-1].append(seconds)
                    figures = ", ".join(f"{side} {seconds[side]:.2f} s" for side in SIDES)
                    console.print(f"{workload.name}: {figures}")
    return samples


def figures_of(workload: Workload, rounds: list[Round]) -> dict[str, float]:
    """Each side's tokens a second, and how many times as many as vLLM's they are."""
    figures = {}
    for side in SIDES:
        figures[side] = workload.tokens / statistics.median(each[side] for each in rounds)
        figures[f"{side}, ratio"] = statistics.median(each["vLLM"] / each[side] for each in rounds)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a Qwen3-Next checkpoint")
    parser.add_argument("--prefill", type=counts, default=(32, 1024), metavar="REQUESTSxTOKENS",
                        help="prompts at once, tokens of each")  # fmt: skip
    parser.add_argument("--decode", type=counts, default=(16, 256), metavar="REQUESTSxTOKENS",
                        help="requests at once, tokens that each generates")  # fmt: skip
    parser.add_argument("--starts", type=positive_int, default=3, help="of all engines")
    parser.add_argument(
        "--rounds", type=positive_int, default=5, help="of each workload in a start"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--engine", nargs=2, help=argparse.SUPPRESS)  # the child's part
    arguments = parser.parse_args()
    if arguments.engine:
        serve_rounds(arguments.model, *arguments.engine)
        return
    if arguments.model and not Path(arguments.model, "config.json").is_file():
        parser.error(f"--model: got {arguments.model!r}, expected a folder with config.json")

    console = Console(highlight=False)
    (prefills, prompt_tokens), (decodes, generated) = arguments.prefill, arguments.decode
    workloads = [
        Workload(f"prefill, {prefills} x {prompt_tokens}", prefills, prompt_tokens, 1),
        Workload(f"decode, {decodes} x {generated}", decodes, 32, generated),
    ]
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if model is None:
            model = folder + "/model"
            maker = Path(__file__).parent.parent / "examples" / "tiny_checkpoint.py"
            subprocess.run([sys.executable, str(maker), model], check=True)
        starts = [
            measure(console, model, workloads, Path(folder), arguments.rounds)
            for _ in range(arguments.starts)
        ]
    figures = {
        workload.name: figures_of(workload, [each for start in starts for each in start[number]])
        for number, workload in enumerate(workloads)
    }
    table = Table(title="tokens a second, real engine on CPU")
    table.add_column("workload")
    for side in SIDES:
        table.add_column(side, justify="right")
    for name, row in figures.items():
        table.add_row(name, *(f"{row[side]:,.0f} ({row[f'{side}, ratio']:.2f}x)" for side in SIDES))
    console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
