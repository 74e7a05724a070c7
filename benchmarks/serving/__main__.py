# SPDX-License-Identifier: Apache-2.0
"""Serve MODEL with vLLM's own worker and with ours, and compare TTFT, TPOT and tokens a second.

    PYTHONPATH=benchmarks python -m serving --model DIR --worker-cls ascend_gdn.runner.GPUWorker \\
        --out results [--shape seed|ttft|both] [--seed-flags] -- ENGINE_ARGS...

The protocol of vLLM-Ascend PR #7756: each server is started once, warmed up, and takes 5 rounds of
64 prompts, 16 at a time, 1500 tokens each; the means are over the last 4. Both servers are up at
once and take turns, stock, ours, ours, stock, so that a machine's drift falls on both; only one is
under load at a time. Where a device cannot hold both, --servers turns starts them one after the
other, and --starts 2 makes that A B A B. Everything after -- goes to both servers.
"""

import argparse
import json
import signal
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from serving.client import Client, make_client
from serving.loads import Load, seed_load, ttft_loads
from serving.machine import machine
from serving.options import parse
from serving.plot import plot
from serving.report import (
    Round,
    RoundFailedError,
    checked_round,
    rounds_as_json,
    summary,
    table,
)
from serving.servers import OURS, SIDES, STOCK, ServerError, VLLMServer, with_defaults
from serving.trace import TraceError, read_trace, step_costs


class Comparison:
    """The rounds so far, and the file that they are kept in."""

    def __init__(self, options: argparse.Namespace, loads: list[Load]) -> None:
        self.options, self.loads = options, loads
        self.engine_args = with_defaults(
            options.engine_args, options.servers == "both", options.seed_flags
        )
        self.rounds: list[Round] = []
        self.about: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "model": Path(options.model).name,
            "model_config": json.loads(Path(options.model, "config.json").read_text()),
            "worker_cls": {STOCK: None, OURS: options.worker_cls},
            "engine_args": self.engine_args,
            "servers": options.servers,
            "starts": options.starts,
            "loads": [vars(load) for load in loads],
            "start_seconds": {side: [] for side in SIDES},
            "profile": {},
        }

    def run(self) -> None:
        client = make_client(self.options.model, self.options.out / "client.log")
        for start in range(self.options.starts):
            together = [SIDES] if self.options.servers == "both" else [(side,) for side in SIDES]
            for sides in together:
                with ExitStack() as stack:
                    # One after the other: each looks at the memory that is free when it starts.
                    servers = [self._started(stack, side, start) for side in sides]
                    self._measure(client, servers, start)

    def _started(self, stack: ExitStack, side: str, start: int) -> VLLMServer:
        out, model = self.options.out, self.options.model
        log = out / f"server-{side}-{start}.log"
        traces = out / f"traces-{side}-{start}" if self.options.profile else None
        worker_cls = self.about["worker_cls"][side]
        server = VLLMServer(side, model, worker_cls, self.engine_args, log, traces)
        print(f"starting {side}: {' '.join(server.command[1:])}", flush=True)
        seconds = stack.enter_context(server).wait_until_healthy(
            self.options.start_timeout, partial(print, flush=True)
        )
        print(f"{side} is up after {seconds:.0f} s", flush=True)
        self.about["start_seconds"][side].append(round(seconds, 1))
        return server

    def _measure(self, client: Client, servers: list[VLLMServer], start: int) -> None:
        for number, load in enumerate(self.loads):
            # New prompts in each round, so that no cache has them; the same for both sides.
            seeds = iter(range(1000 * number, 1000 * (number + 1)))
            seed = next(seeds)
            for server in servers:
                self._round(client, server, load.warm_up(), start, 0, seed)
            for index in range(self.options.rounds):
                seed = next(seeds)
                # In turn also who goes first: what a first prompt of some length has compiled is on
                # disk for the other.
                order = servers if index % 2 == 0 else servers[::-1]
                self.rounds += [
                    self._round(client, server, load, start, index, seed) for server in order
                ]
                self.write(complete=False)
        for server in servers:
            if server.side == OURS:
                self.about["gdn_stats"] = server.call_workers("gdn_stats")
        # Last: once a worker has a profiler it marks every step.
        for load in filter(lambda load: load.is_one_prefill, self.loads):
            for server in servers:
                if server.traces is not None:
                    profile = self.about["profile"].setdefault(load.name, {})
                    profile[server.side] = self._profile(client, server, load, server.traces)

    def _profile(
        self, client: Client, server: VLLMServer, load: Load, traces: Path
    ) -> dict[str, float]:
        with server.profiler():
            self._round(client, server, load.profiled(), 0, 0, seed=1000 * len(self.loads))
        costs = step_costs(read_trace(traces))
        figures = ", ".join(f"{name} {value:.2f}" for name, value in costs.items())
        print(f"  a prefill step with the profiler on: {figures}", flush=True)
        return costs

    def _round(
        self, client: Client, server: VLLMServer, load: Load, start: int, index: int, seed: int
    ) -> Round:
        began = time.monotonic()
        result = client(server.port, load, seed)
        server.check_alive()
        try:
            done = checked_round(result, load, start, index, server.side)
        except RoundFailedError as error:
            raise RoundFailedError(server.with_log(str(error))) from error
        figures = ", ".join(f"{key} {value:.2f}" for key, value in done.metrics.items())
        print(
            f"[{time.monotonic() - began:5.1f} s] {load.name}, round {index + 1}, "
            f"{server.side}: {figures}",
            flush=True,
        )
        return done

    def write(self, complete: bool) -> dict[str, Any]:
        """Write results.json; returns the summary."""
        figures = summary(self.rounds, self.loads, SIDES)
        content = self.about | {
            "complete": complete,
            "summary": figures,
            "rounds": rounds_as_json(self.rounds),
        }
        (self.options.out / "results.json").write_text(json.dumps(content, indent=1) + "\n")
        return figures

    def plot(self, figures: dict[str, Any]) -> None:
        about = self.about
        title = f"{about['model']} on {about['machine']['device']}, {about['date']}"
        try:
            plot(self.rounds, figures, self.loads, SIDES, title, self.options.out / "results.png")
        except ImportError:
            print("no plot: matplotlib is not installed")


def main() -> int:
    options = parse(sys.argv[1:], __doc__)
    # The servers are ended on the way out, so a termination must be an exception, like Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    loads = []
    if options.shape in ("ttft", "both"):
        loads += ttft_loads(options.ttft_prompts, options.ttft_concurrency)
    if options.shape in ("seed", "both"):
        loads.append(
            seed_load(
                options.input_len, options.output_len, options.num_prompts, options.max_concurrency
            )
        )
    options.out.mkdir(parents=True, exist_ok=True)
    comparison = Comparison(options, loads)
    complete = False
    try:
        comparison.run()
        complete = True
    except (ServerError, RoundFailedError, TraceError) as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, ServerError) and options.servers == "both":
            print(
                "If the device cannot hold both engines, give a lower --gpu-memory-utilization "
                "after --, or --servers turns.",
                file=sys.stderr,
            )
        return 1
    finally:
        comparison.about["machine"] = machine()
        figures = comparison.write(complete)
    comparison.plot(figures)
    print(table(figures, SIDES))
    print(f"\nall figures: {options.out / 'results.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
