# SPDX-License-Identifier: Apache-2.0
"""The demo's server process: it comes up, dies audibly, and never leaves a process behind."""

import os
import sys
import textwrap
import time

import pytest

from demo_server import Server, ServerError
from serve import GDN_WORKER, main, server_command, server_environment
from server_log import last_lines
from server_ports import port_of, reserve_port

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


def make_server(tmp_path, code, patience=60):
    reserved = reserve_port()
    command = [sys.executable, "-c", textwrap.dedent(code), str(port_of(reserved))]
    return Server(command, dict(os.environ), reserved, tmp_path / "server.log", patience)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_serves_answers_and_ends_with_its_children(tmp_path):
    with make_server(tmp_path, HEALTHY) as server:
        server.wait_until_healthy(timeout=60)
        assert server.call_workers("gdn_stats") == [{"method": "gdn_stats"}]
        child = int(last_lines(server.log, 1)[0].split()[1])
        assert is_running(child)
    assert not is_running(child)


def test_ends_its_children_when_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt), make_server(tmp_path, HEALTHY) as server:  # noqa: PT012
        server.wait_until_healthy(timeout=60)
        child = int(last_lines(server.log, 1)[0].split()[1])
        raise KeyboardInterrupt
    assert not is_running(child)


def test_ends_a_server_that_ignores_polite_signals(tmp_path):
    code = """
        import os, signal, time
        signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid(), flush=True); time.sleep(600)
    """
    with make_server(tmp_path, code, patience=0.1) as server:
        while not last_lines(server.log, 1):
            time.sleep(0.05)
        pid = int(last_lines(server.log, 1)[0])
        assert is_running(pid)
    assert not is_running(pid)


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
def test_no_proxy_comes_between_the_demo_and_its_server(name, tmp_path, monkeypatch):
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    with make_server(tmp_path, HEALTHY) as server:
        server.wait_until_healthy(timeout=60)
        assert server.call_workers("gdn_stats") == [{"method": "gdn_stats"}]


def test_tells_the_phases_of_the_start(tmp_path):
    code = """
        import time
        print("INFO 11-22 16:32:49 [a.py:1] Starting to load model", flush=True); time.sleep(600)
    """
    said, now = [], []

    def stop_once_loading(text):
        now.append(text)
        if text.startswith("loading the model"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), make_server(tmp_path, code) as server:
        server.wait_until_healthy(60, said.append, stop_once_loading)
    assert [line.split(":")[0].strip() for line in said] == ["importing vLLM"]
    assert now[-1].startswith("loading the model, ")


def test_a_server_that_dies_is_an_error_with_its_log(tmp_path):
    with (
        make_server(tmp_path, "import sys; print('no such model'); sys.exit(3)") as server,
        pytest.raises(
            ServerError, match=r"(?s)ended with code 3.*no such model.*What to do: .*log"
        ),
    ):
        server.wait_until_healthy(timeout=60)


def test_a_server_that_never_comes_up_is_an_error(tmp_path):
    with (
        make_server(tmp_path, "import time; time.sleep(600)") as server,
        pytest.raises(ServerError, match="not up after 0 s"),
    ):
        server.wait_until_healthy(timeout=0)


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
