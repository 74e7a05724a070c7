# SPDX-License-Identifier: Apache-2.0
"""The comparison's command line."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from command_line import positive_int
from serving.loads import TTFT_CONCURRENCIES, TTFT_PROMPTS


def parse(arguments: list[str], description: str | None = None) -> argparse.Namespace:
    """What was asked for; ends with a message if it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="a folder with config.json and a tokenizer")
    add("--worker-cls", required=True, help="of our side: ascend_gdn.runner.{GPU,NPU,CPU}Worker")
    add("--out", type=Path, required=True, help="a folder for results.json, results.png and logs")
    add("--shape", choices=("seed", "ttft", "both"), default="both")
    add("--seed-flags", action="store_true", help="async scheduling, full decode graphs, MTP of 3")
    add("--servers", choices=("both", "turns"), default="both", help="up at once, or in turn")
    add("--starts", type=positive_int, default=1, help="how often each server is started")
    add(
        "--rounds",
        type=positive_int,
        default=5,
        help="of each load; the first is dropped",
    )
    add("--input-len", type=positive_int, default=1500, help="of a prompt in the seed's load")
    add("--output-len", type=positive_int, default=1500)
    add("--num-prompts", type=positive_int, default=64)
    add("--max-concurrency", type=positive_int, default=16)
    add("--ttft-prompts", type=positive_int, nargs="+", default=TTFT_PROMPTS, help="their lengths")
    add("--ttft-concurrency", type=positive_int, nargs="+", default=TTFT_CONCURRENCIES)
    add("--profile", action="store_true", help="a prefill's costs, by torch's profiler, at the end")
    add("--start-timeout", type=float, default=900, help="seconds")
    add("engine_args", nargs="*", metavar="ENGINE_ARG", help="for both servers, after --")
    ours, engine_args = arguments, []
    if "--" in arguments:
        at = arguments.index("--")
        ours, engine_args = arguments[:at], arguments[at + 1 :]
    options = parser.parse_args(ours)
    if options.engine_args:
        parser.error(f"engine arguments come after --: {' '.join(options.engine_args)}")
    options.engine_args = engine_args
    if any(argument.replace("_", "-").startswith("--worker-cls") for argument in engine_args):
        parser.error("--worker-cls is for our side alone: give it before --")
    if options.rounds < 2:
        parser.error("--rounds: give at least 2, since the first is dropped")
    if not Path(options.model, "config.json").is_file():
        parser.error(f"--model: there is no {options.model}/config.json")
    if options.profile and (options.shape == "seed" or 1 not in options.ttft_concurrency):
        parser.error("--profile is of one prefill at a time: give --shape ttft or both, with 1 in "
                     "--ttft-concurrency")  # fmt: skip
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out: got {options.out}, which is no folder")
    module = options.worker_cls.rpartition(".")[0]
    try:
        found = bool(module) and find_spec(module) is not None
    except ImportError:
        found = False
    if not found:
        parser.error(f"--worker-cls: got {options.worker_cls!r}, expected module.Class that can be "
                     "imported here")  # fmt: skip
    return options
