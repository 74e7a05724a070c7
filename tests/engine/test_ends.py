# SPDX-License-Identifier: Apache-2.0
"""However a served model ends, its clients hear of it, and no process or shared memory is left."""

from __future__ import annotations

import os
from contextlib import suppress
from signal import SIGKILL

import psutil
import pytest

from .served import assert_all_hear_of_the_end, clients_in_a_prefill, served

pytestmark = [pytest.mark.engine]


def test_clients_hear_of_a_termination_in_their_prefill(tmp_path):
    with served(tmp_path) as server:
        clients = clients_in_a_prefill(server)
        # All at once, as systemd does by default; by itself vLLM then waits for its clients.
        for process in server.processes:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        assert server.exit_code() == 0
        assert_all_hear_of_the_end(clients)


@pytest.mark.parametrize(
    ("victim", "code"),
    [
        ("EngineCore", 1),
        pytest.param("APIServer", 137, marks=pytest.mark.slow),
        pytest.param("serve.py", -SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_left_of_a_server_that_is_killed(victim, code, tmp_path):
    with served(tmp_path) as server:
        os.kill(server.process.pid if victim == "serve.py" else server.pid_of(victim), SIGKILL)
        assert server.exit_code() == code
