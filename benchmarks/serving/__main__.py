# SPDX-License-Identifier: Apache-2.0
"""Compare vLLM's own worker with ours: engines under loads by name, or servers by a protocol.

    PYTHONPATH=benchmarks python -m serving --out results [--loads 1x512 16x500 ...] -- ENGINE_ARGS
    PYTHONPATH=benchmarks python -m serving --out results --protocol [--seed-flags] -- ENGINE_ARGS

The first runs four arms: stock and ours, with CUDA graphs of up to 512 and up to 2048 tokens. Each
is an engine in a process of its own, on cores of its own. All are up at once and take turns,
another one first in each round, so that a machine's drift falls on all; one is under load at a
time. For each load it reports the medians, ours to stock with the same graphs, and how many times
the device's busy time a run takes.

The second is the protocol of vLLM-Ascend PR #7756: servers take rounds of 64 prompts, 16 at a time,
1500 tokens each, with answers of as many; the means are over all rounds but the first.

Where a device cannot hold all arms, --servers turns starts them one after the other, and --starts 2
makes that A B A B. Everything after -- goes to all arms. One such layer in 24 makes 23 KV cache
groups of GDN layers, 12 with MTP:

    ... --full-attention-interval 24 --loads 1x512 1x64+65 16x64+65 [--spec 3]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from serving.arms import OURS, Arm, arms_of
from serving.client import make_client
from serving.comparison import Comparison, Started
from serving.dummy_model import PUBLIC_SIZES, dummy_config, weights_gigabytes, write_dummy_model
from serving.engine import Engine, EngineError
from serving.loads import protocol_load
from serving.machine import machine
from serving.options import parse
from serving.plot import plot
from serving.report import RoundFailedError, table
from serving.servers import ServerError, VLLMServer
from serving.trace import TraceError


def model_folder(options: argparse.Namespace) -> str:
    """The folder to serve, which for a model by name is made here."""
    if not options.named_model:
        return options.model
    asked = {
        "layers": options.layers,
        "experts": options.experts,
        "full_attention_interval": options.interval,
    }
    public = PUBLIC_SIZES[options.model]
    config = dummy_config(options.model, **public | {k: v for k, v in asked.items() if v})
    folder = options.out / options.model
    write_dummy_model(folder, config, options.model)
    print(f"{folder}: experts and embeddings of {weights_gigabytes(config):.1f} GB")
    return str(folder)


def maker(options: argparse.Namespace, model: str) -> Callable[[Arm, Path], Started]:
    """What makes the engine or server of an arm, given the arm and where its log goes."""
    if options.protocol:
        client = make_client(model, options.out / "client.log")
        return lambda arm, log: VLLMServer(arm, model, log, client)

    def engine(arm: Arm, log: Path) -> Engine:
        profiled = options.profile == "all" or (options.profile == "ours" and arm.side == OURS)
        traces = options.out / f"traces-{arm.name}" if profiled else None
        return Engine(arm, model, log, traces, options.runs)

    return engine


def main() -> int:
    options = parse(sys.argv[1:], __doc__)
    # All that is started is ended on the way out, so a termination must be an exception, like
    # Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        model = model_folder(options)
    except (ValueError, OSError) as error:
        print(f"error: --model {options.model}: {error}", file=sys.stderr)
        return 2
    arms = arms_of(options)
    loads = options.loads
    if options.protocol:
        sizes = options.input_len, options.output_len, options.num_prompts, options.max_concurrency
        loads = [protocol_load(*sizes)]
        # The client's cores are those that no server has, if there are any.
        mine = os.sched_getaffinity(0).difference(*(arm.cores for arm in arms))
        os.sched_setaffinity(0, mine or os.sched_getaffinity(0))
    comparison = Comparison(options, model, arms, loads, maker(options, model))
    complete = False
    try:
        comparison.run()
        complete = True
    except (EngineError, ServerError, RoundFailedError, TraceError) as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, (EngineError, ServerError)) and options.servers == "together":
            print(
                "If the device cannot hold all at once, give a lower --gpu-memory-utilization or "
                "--kv-cache-memory-bytes after --, or --servers turns.",
                file=sys.stderr,
            )
        return 1
    finally:
        comparison.about["machine"] = machine()
        results = comparison.write(complete)
    try:
        plot(results, options.out / "results.png")
    except ImportError:
        print("no plot: matplotlib is not installed")
    print(table(results["summary"], arms))
    print(f"\nall figures: {options.out / 'results.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
