# SPDX-License-Identifier: Apache-2.0
"""The demo's server process: it comes up, dies audibly, and never leaves a process behind."""

import os
import sys
import textwrap
import time

import pytest
from rich.console import Console

from demo_server import Server, ServerError, bare_message, first_error, free_port, last_lines
from serve import GDN_WORKER, main, server_command, server_environment

HEALTHY = """
    import http.server, json, subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("child", child.pid, flush=True)
    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, body=b""):
            self.send_response(200); self.end_headers(); self.wfile.write(body)
        def do_GET(self): self.answer()
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(json.dumps({"results": [asked]}).encode())
        def log_message(self, *arguments): pass
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def make_server(tmp_path, code):
    port = free_port()
    command = [sys.executable, "-c", textwrap.dedent(code), str(port)]
    return Server(command, dict(os.environ), port, tmp_path / "server.log")


def quiet():
    return Console(quiet=True)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_serves_answers_and_ends_with_its_children(tmp_path):
    with make_server(tmp_path, HEALTHY) as server:
        server.wait_until_healthy(quiet(), timeout=60)
        assert server.call_workers("gdn_stats") == [{"method": "gdn_stats"}]
        child = int(last_lines(server.log, 1)[0].split()[1])
        assert is_running(child)
    assert not is_running(server.process.pid)
    assert not is_running(child)


def test_ends_its_children_when_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt), make_server(tmp_path, HEALTHY) as server:  # noqa: PT012
        server.wait_until_healthy(quiet(), timeout=60)
        child = int(last_lines(server.log, 1)[0].split()[1])
        raise KeyboardInterrupt
    assert not is_running(child)


def test_ends_a_server_that_ignores_polite_signals(tmp_path, mocker):
    code = """
        import signal, time
        signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("deaf", flush=True); time.sleep(600)
    """
    server = make_server(tmp_path, code)
    waits = {"SIGINT": 0.3, "SIGTERM": 0.3, "SIGKILL": 15}
    real = server._gone_after
    mocker.patch.object(server, "_gone_after", lambda sign, _: real(sign, waits[sign.name]))
    with server:
        while last_lines(server.log, 1) != ["deaf"]:
            time.sleep(0.05)
    assert not is_running(server.process.pid)


def test_a_server_that_dies_is_an_error_with_its_log(tmp_path):
    with (
        make_server(tmp_path, "import sys; print('no such model'); sys.exit(3)") as server,
        pytest.raises(ServerError, match=r"(?s)ended with code 3.*no such model"),
    ):
        server.wait_until_healthy(quiet(), timeout=60)


def test_a_server_that_never_comes_up_is_an_error(tmp_path):
    with (
        make_server(tmp_path, "import time; time.sleep(600)") as server,
        pytest.raises(ServerError, match="not up after 0 s"),
    ):
        server.wait_until_healthy(quiet(), timeout=0)


def test_last_lines_skips_empty_ones(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo \n\n\xff three\n\n")
    assert last_lines(log, 2) == ["two", "\N{REPLACEMENT CHARACTER} three"]
    log.write_bytes(b"")
    assert last_lines(log, 1) == []


def test_first_error_is_the_cause(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "INFO 11-22 16:32:49 [core.py:1] no Error: yet\n"
        "(Worker pid=7) ERROR 11-22 16:46:27 [a.py:9] vllm.MissingError: no compiler\n"
        "RuntimeError: see above\n"
    )
    assert first_error(log) == "vllm.MissingError: no compiler"
    log.write_text("fine\n")
    assert first_error(log) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("(EngineCore pid=7) INFO 11-22 16:32:49 [core.py:1] ready [now]", "ready [now]"),
        ("INFO 11-22 16:32:49 [core.py:1] ready", "ready"),
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
    ],
)
def test_bare_message(line, message):
    assert bare_message(line) == message


def test_server_command_names_worker_and_model():
    command = server_command("folder", 8123, extra=["--dtype", "float32"])
    assert command[command.index("--worker-cls") + 1] == GDN_WORKER
    assert command[command.index("--model") + 1] == "folder"
    assert command[command.index("--port") + 1] == "8123"
    assert command[-2:] == ["--dtype", "float32"]


def test_server_environment_keeps_what_the_caller_set(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "4")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    environment = server_environment()
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert environment["PYTHONSAFEPATH"] == "1"


def test_serve_refuses_a_folder_without_a_model(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "has no config.json" in capsys.readouterr().err
