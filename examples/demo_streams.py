# SPDX-License-Identifier: Apache-2.0
"""Concurrent questions with the official OpenAI client, and a live view of what comes back."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import openai
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from recall_task import HELD_OUT_SEED, LONGEST_ANSWER, recall


class StreamError(RuntimeError):
    """A stream ended without an answer."""


@dataclass
class Request:
    """One request: sent ``delay`` seconds after the first; the rest is filled as answers come."""

    prompt: list[int]
    answer: list[int]
    """The only right one."""
    delay: float
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    first_token_seconds: float | None = None
    seconds: float | None = None
    prompt_logprobs: list[float] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return self.token_ids == self.answer


def make_requests(lengths: Sequence[int], gap: float, seed: int) -> list[Request]:
    """Prompts of these lengths, none trained on, in two waves ``gap`` seconds apart.

    The second wave's prefills meet the first wave's decodes in the same steps.
    """
    requests: list[Request] = []
    for delay in (0.0, gap):
        for length in lengths:
            question = recall(HELD_OUT_SEED + seed + len(requests), length)
            requests.append(Request(question.prompt, question.answer, delay))
    return requests


def printable(text: str, width: int) -> str:
    """The end of ``text`` that fits ``width``, with nothing that could upset a terminal."""
    clean = "".join(
        c if c.isprintable() and c != "\N{REPLACEMENT CHARACTER}" else "·" for c in text
    )
    return clean if len(clean) <= width else "…" + clean[1 - width :]


def request_table(requests: Sequence[Request], width: int) -> Table:
    table = Table(title="streams", title_justify="left")
    for name in ("prompt tokens", "sent at", "first token", "done", "tokens"):
        table.add_column(name, justify="right")
    table.add_column("right")
    table.add_column("answer", no_wrap=True)
    for request in requests:
        table.add_row(
            str(len(request.prompt)),
            f"{request.delay:.1f} s",
            "" if request.first_token_seconds is None else f"{request.first_token_seconds:.2f} s",
            "" if request.seconds is None else f"{request.seconds:.2f} s",
            f"{len(request.token_ids)} of {len(request.answer)}",
            "" if request.seconds is None else "yes" if request.right else "NO",
            Text(printable(request.text, max(10, width - 76))),
        )
    return table


async def _stream(client: openai.AsyncOpenAI, model: str, request: Request) -> None:
    await asyncio.sleep(request.delay)
    start = time.monotonic()
    stream = await client.completions.create(
        model=model,
        prompt=request.prompt,
        max_tokens=2 * LONGEST_ANSWER,
        temperature=0,
        stream=True,
        extra_body={"return_token_ids": True},
    )
    async for chunk in stream:
        if request.first_token_seconds is None:
            request.first_token_seconds = time.monotonic() - start
        choice = chunk.choices[0]
        request.text += choice.text
        # vLLM's own field, asked for above; the OpenAI client keeps such fields apart.
        request.token_ids += (choice.model_extra or {}).get("token_ids") or []
    request.seconds = time.monotonic() - start
    if not request.token_ids:
        raise StreamError(
            f"the stream of the {len(request.prompt)}-token prompt ended without a token"
        )


async def _prompt_logprobs(client: openai.AsyncOpenAI, model: str, request: Request) -> None:
    answer = await client.completions.create(
        model=model,
        prompt=request.prompt,
        max_tokens=1,
        temperature=0,
        extra_body={"prompt_logprobs": 0},
    )
    # One entry a prompt token: {token id: {"logprob": ...}}; None for the first token.
    entries = (answer.choices[0].model_extra or {})["prompt_logprobs"][1:]
    request.prompt_logprobs = [
        entry[str(token)]["logprob"]
        for token, entry in zip(request.prompt[1:], entries, strict=True)
    ]


async def _show_until_done(
    console: Console, streams: Sequence[asyncio.Task[None]], requests: Sequence[Request]
) -> None:
    """Raises what the first stream to fail raised."""
    pending = set(streams)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while pending:
            if console.is_terminal:
                live.update(request_table(requests, console.width), refresh=True)
            done, pending = await asyncio.wait(pending, timeout=0.2)
            for stream in done:
                stream.result()


async def run_requests(console: Console, url: str, model: str, requests: Sequence[Request]) -> None:
    """Streams all requests at once, then asks for the same prompts' logprobs, all at once too."""
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        timeout=600,
        max_retries=0,
        # The server closes connections that are idle for some seconds, and a request that goes out
        # on one just then is lost: each takes a connection of its own.
        default_headers={"Connection": "close"},
        # No proxy of the environment: the server is on this machine.
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    ) as client:
        streams = [asyncio.create_task(_stream(client, model, r)) for r in requests]
        try:
            await _show_until_done(console, streams, requests)
        finally:
            # On Ctrl-C, before the client closes under them.
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
        console.print(request_table(requests, console.width))
        with console.status("asking for the logprobs of the same prompts"):
            await asyncio.gather(*(_prompt_logprobs(client, model, r) for r in requests))
