# SPDX-License-Identifier: Apache-2.0
"""What a server does that loses a worker, its disk or its shared memory.

It goes on, or ends with an error: nothing of it is left, and its log says why.
"""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL

import pytest

import server_guard
from ascend_gdn.runner.metrics import VARIABLE
from recall_task import held_out
from small_mounts import over_small_disk

from .job import Job, run
from .served import (
    HANG,
    Client,
    assert_all_hear_of_the_end,
    clients_in_a_prefill,
    completion,
    served,
)
from .test_recall import MODEL

pytestmark = [pytest.mark.engine]

(QUESTION,) = held_out(1, (200,))
ENDED = "the server ended with code "


def ask(port: int) -> list[int]:
    """The answer to QUESTION."""
    body = {"model": "recall_model", "prompt": QUESTION.prompt, "max_tokens": 20,
            "temperature": 0, "return_token_ids": True}  # fmt: skip
    tokens: list[int] = json.loads(completion(port, body, HANG))["choices"][0]["token_ids"]
    return tokens


def test_a_worker_killed_in_a_prefill_ends_the_server_and_the_next_one_answers(tmp_path):
    with served(tmp_path) as server:
        clients = clients_in_a_prefill(server)
        os.kill(server.pid_of("Worker"), SIGKILL)
        assert server.exit_code() == 1
        assert_all_hear_of_the_end(clients)
        said = server.log.read_text()
        assert len(re.findall(r"Worker proc \S+ died unexpectedly.*, shutting down", said)) == 1
        assert said.count(ENDED) == 1
    with served(tmp_path, port=server.port) as next_one:
        assert ask(next_one.port) == QUESTION.answer


@pytest.mark.slow
def test_a_worker_killed_in_the_start_of_its_engine_ends_the_server(tmp_path):
    with served(
        tmp_path,
        "--worker-cls", "changed_workers.LongWarmUpWorker",
        env={"PYTHONPATH": str(Path(__file__).parent)},
        until="GPU KV cache size",
    ) as server:  # fmt: skip
        time.sleep(3 * server_guard._LOOK)  # the supervisor has seen the worker
        os.kill(server.pid_of("Worker"), SIGKILL)
        assert server.exit_code() == 1
        said = server.log.read_text()
    assert "Worker proc VllmWorker-0 died unexpectedly" in said
    # vLLM's engine mostly waits in its exit then, and its server for it; not every time.
    assert (ENDED in said) != ("its engine or a worker had died, and it waited on" in said)


@pytest.mark.slow
def test_shared_memory_that_fills_up_ends_the_server(tmp_path):
    memory = Path("/dev/shm")
    with served(tmp_path, over=lambda c: over_small_disk(memory, c, size="8m")) as server:
        assert ask(server.port) == QUESTION.answer
        inside = Path("/proc", str(server.process.pid), "root", "dev", "shm")
        with suppress(OSError), (inside / "fill").open("wb", buffering=0) as fill:
            while True:
                fill.write(bytes(1 << 16))
        began = time.monotonic()
        with suppress(OSError):  # until it is refused or cut off
            while time.monotonic() < began + HANG:
                ask(server.port)
                Client(server.port, stream=False).run()
        assert server.exit_code() == 1
        said = server.log.read_text()
    assert said.count("Fatal Python error: Bus error") == 1
    assert said.count(ENDED) == 1


@pytest.mark.slow
def test_a_full_disk_stops_no_answer(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    places = ("HOME", "TMPDIR", "VLLM_CACHE_ROOT", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    ours = {"ascend_gdn": {"verify": True, "verify_dumps": str(disk)}}
    with served(
        tmp_path,
        "--additional-config", json.dumps(ours),
        env={name: str(disk) for name in places},
        over=lambda command: over_small_disk(disk, command, full=True),
    ) as server:  # fmt: skip
        assert ask(server.port) == QUESTION.answer
        server.process.terminate()
        assert server.exit_code() == 0


def test_an_engine_goes_on_without_the_folder_of_its_metrics(tmp_path):
    job = Job(
        str(MODEL),
        [QUESTION.prompt],
        max_tokens=20,
        env={VARIABLE: str(tmp_path / "missing")},
        sampling={"ignore_eos": False, "prompt_logprobs": None},
    )
    result = run(job, tmp_path)
    assert result.tokens == [QUESTION.answer]
    warning = f"WARNING .*metrics are not published: got {VARIABLE}={tmp_path}/missing "
    assert len(re.findall(warning, result.log)) == 1
    assert "verify mode off; metrics not published." in result.log
