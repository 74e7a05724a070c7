# SPDX-License-Identifier: Apache-2.0
"""The demo's client against a server that closes every connection once it has been idle."""

from __future__ import annotations

import asyncio
import json

import pytest
from rich.console import Console

from demo_streams import Request, run_requests

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n{}"


def answer_to(asked: dict) -> str:
    """What vLLM answers: a stream of one event, or the logprobs of a prompt of two tokens."""
    choice = {"index": 0, "text": "word", "token_ids": [7]}
    if asked.get("stream"):
        body = f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n"
        return HEAD.format("text/event-stream", len(body), body)
    choice["prompt_logprobs"] = [None, {str(asked["prompt"][1]): {"logprob": -1.0}}]
    body = json.dumps({"choices": [choice]})
    return HEAD.format("application/json", len(body), body)


async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the first request, and close as the second arrives: the connection was idle too
    long, and the client's request crosses its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length:")[1].split()[0])
    writer.write(answer_to(json.loads(await reader.readexactly(length))).encode())
    await reader.read(1)
    writer.close()


async def serve_and_run(requests: list[Request]) -> None:
    async with await asyncio.start_server(answer_once, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await run_requests(Console(quiet=True), f"http://127.0.0.1:{port}", "model", requests)


def some_requests() -> list[Request]:
    return [Request([1, token], [7], delay=0.0) for token in range(4)]


def test_no_request_goes_out_on_a_connection_that_has_been_idle():
    requests = some_requests()
    asyncio.run(serve_and_run(requests))
    assert all(request.right and request.prompt_logprobs == [-1.0] for request in requests)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_no_proxy_comes_between_the_client_and_its_own_machine(name, monkeypatch):
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    requests = some_requests()
    asyncio.run(serve_and_run(requests))
    assert all(request.right for request in requests)
