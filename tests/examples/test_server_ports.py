# SPDX-License-Identifier: Apache-2.0
"""Which addresses are refused, against sockets made as vLLM makes its own."""

from __future__ import annotations

import socket
from contextlib import contextmanager

import pytest

import serve
from server_ports import AddressError, port_of, refuse_taken, reserve_port


@contextmanager
def bound_as_vllm_does(host: str, port: int = 0):
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    with server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind((host, port))
        yield server


@pytest.mark.parametrize("listens", [True, False], ids=["up", "starting"])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "localhost"),
        ("::1", "::1"),
        ("::", "::1"),
        ("::", "0.0.0.0"),
    ],
)
def test_a_port_that_a_server_has_is_refused(theirs, ours, listens):
    with bound_as_vllm_does(theirs) as server:
        if listens:
            server.listen()
        with pytest.raises(AddressError, match=r"which is taken.*give another with --port"):
            refuse_taken(ours, server.getsockname()[1])


def test_the_server_is_named():
    with bound_as_vllm_does("127.0.0.1") as server:
        server.listen()
        with pytest.raises(AddressError, match=r"taken by process \d+ \(.*pytest"):
            refuse_taken("127.0.0.1", server.getsockname()[1])


def test_a_port_is_free_again_once_its_server_has_ended():
    with bound_as_vllm_does("127.0.0.1") as server:
        server.listen()
        where = server.getsockname()
        with socket.create_connection(where) as client:
            accepted, _ = server.accept()
            accepted.close()  # the server closes first, so that its end of it stays for a minute
            assert client.recv(1) == b""
    refuse_taken(*where)
    with bound_as_vllm_does(*where) as again:
        again.listen()


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("192.0.2.1", 8000, r"192\.0\.2\.1:8000 cannot be bound"),
        ("127.0.0.1", 70000, "got port 70000, expected 0 to 65535"),
    ],
)
def test_an_address_that_cannot_be_had(host, port, message):
    with pytest.raises(AddressError, match=message):
        refuse_taken(host, port)


def test_a_reserved_port_is_for_its_server_alone():
    with reserve_port() as reserved:
        with pytest.raises(AddressError, match="which is taken"):
            refuse_taken("127.0.0.1", port_of(reserved))
        with bound_as_vllm_does("127.0.0.1", port_of(reserved)) as server:
            server.listen()
            for _ in range(8):  # all connections are the server's
                with socket.create_connection(server.getsockname()):
                    server.accept()[0].close()


@pytest.mark.parametrize("option", ["--host=0.0.0.0", "--host=127.0.0.1", "--shutdown-timeout=3"])
def test_serve_refuses_a_taken_port_before_it_starts_anything(option, monkeypatch, capsys):
    monkeypatch.setattr(serve, "run", lambda *_: pytest.fail("started"))
    with bound_as_vllm_does("127.0.0.1") as server:
        port = server.getsockname()[1]
        assert serve.main(["--port", str(port), option]) == 2
    assert "make serve PORT=" in capsys.readouterr().err


def test_serve_refuses_a_path_that_exists(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(serve, "run", lambda *_: pytest.fail("started"))
    (tmp_path / "socket").touch()
    assert serve.main(["--uds", str(tmp_path / "socket")]) == 2
    assert "expected a path that is free" in capsys.readouterr().err


def test_serve_takes_a_path_whoever_has_the_port(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(serve, "run", lambda command, patience: started.append(command) or 0)
    with bound_as_vllm_does("127.0.0.1") as server:
        port = str(server.getsockname()[1])
        assert serve.main(["--port", port, "--uds", str(tmp_path / "socket")]) == 0
    assert started[0][-2:] == ["--uds", str(tmp_path / "socket")]
