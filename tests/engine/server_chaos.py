# SPDX-License-Identifier: Apache-2.0
"""Clients that ask one server at random for anything, valid and not, and leave when they like."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from .feature_list import QUESTION
from .server_requests import CERTAIN, ELSEWHERE, FIELDS, INVALID, VALUES

_TIME_OUT = 120.0  # seconds for one answer, on a busy machine
_CLIENTS = 12
_AT_MOST = 24  # tokens of an answer that a garbled request asks for

Answer = list[tuple[str, list[int]]]
"""Text and tokens of each of n choices."""


@dataclass
class Tally:
    """What came of the requests."""

    sent: int = 0
    checked: int = 0
    wrong: list[tuple[dict[str, Any], Answer, Answer]] = field(default_factory=list)
    """What was asked, what was said, what should have been."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Kind of request and HTTP status, or ``left`` where the client did not wait."""
    errors: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    """Requests that got a server error, with its message."""


class Clients:
    """Sends ``requests`` of every kind to the server at ``url``, some at once, all from one seed.

    ``known``: prompts with the tokens that each must get.
    """

    def __init__(
        self,
        url: str,
        model: str,
        known: list[tuple[list[int], list[int]]],
        requests: int,
        seed: int,
    ) -> None:
        self.url, self.model, self.known = url, model, known
        self.left = requests
        self.rng = random.Random(seed)
        self.tally = Tally()
        self.first: dict[str, Answer] = {}
        """What each certain request got when it was asked by itself."""

    async def run(self) -> Tally:
        # A connection each: after some errors vLLM's server closes it under the next request.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=_TIME_OUT, limits=limits) as http:
            for fields in CERTAIN:
                body = self._body(fields)
                reply = await self._ask(http, "reference", body)
                if reply is not None:
                    self.first[json.dumps(fields)] = reply
            await asyncio.gather(*(self._client(http) for _ in range(_CLIENTS)))
        return self.tally

    def _body(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.model, "prompt": QUESTION, "return_token_ids": True} | fields

    async def _client(self, http: httpx.AsyncClient) -> None:
        while self.left > 0:
            self.left -= 1
            kinds = {
                "known": 35,
                "certain": 25,
                "invalid": 12,
                "garbled": 12,
                "elsewhere": 6,
                "leaves": 10,
            }
            kind = self.rng.choices(list(kinds), list(kinds.values()))[0]
            await getattr(self, f"_{kind}")(http)

    async def _known(self, http: httpx.AsyncClient) -> None:
        prompt, tokens = self.rng.choice(self.known)
        fields: dict[str, Any] = {
            "prompt": prompt, "temperature": 0, "max_tokens": len(tokens), "ignore_eos": True,
            "priority": self.rng.randrange(3), "stream": self.rng.random() < 0.4,
        }  # fmt: skip
        # These change no token.
        for harmless in (
            {"logprobs": self.rng.randrange(5)},
            {"n": 2, "temperature": 1.0, "top_k": 1},
            {"min_tokens": len(tokens) - 1, "stop_token_ids": [10**6]},
            {"seed": 3, "top_p": 0.5},
            {"min_tokens": 1},
        ):
            if self.rng.random() < 0.2:
                fields |= harmless
        said = await self._ask(http, "known", self._body(fields))
        if said is not None:
            expected = [(text, tokens) for text, _ in said]
            self._check(fields, said, expected)

    async def _certain(self, http: httpx.AsyncClient) -> None:
        fields = self.rng.choice(CERTAIN)
        more = {"priority": self.rng.randrange(3), "stream": self.rng.random() < 0.4}
        if "prompt_logprobs" in fields:
            more["stream"] = False
        said = await self._ask(http, "certain", self._body(fields | more))
        if said is not None:
            self._check(fields, said, self.first.get(json.dumps(fields), []))

    def _check(self, fields: dict[str, Any], said: Answer, expected: Answer) -> None:
        self.tally.checked += 1
        if "stop" in fields:  # with MTP the tokens go on to the end of the step
            said, expected = ([(text, []) for text, _ in each] for each in (said, expected))
        if said != expected:
            self.tally.wrong.append((fields, said, expected))

    async def _invalid(self, http: httpx.AsyncClient) -> None:
        await self._ask(http, "invalid", self._body(self.rng.choice(INVALID)))

    async def _garbled(self, http: httpx.AsyncClient) -> None:
        fields = {"max_tokens": self.rng.randrange(1, _AT_MOST)}
        fields |= {
            name: self.rng.choice(VALUES)
            for name in self.rng.sample(FIELDS, self.rng.randrange(1, 4))
        }
        if not isinstance(fields["max_tokens"], int) or fields["max_tokens"] > _AT_MOST:
            fields["max_tokens"] = _AT_MOST  # a whole context, by one of the last
        if isinstance(fields.get("n"), int):
            fields["n"] = min(fields["n"], 4)
        if isinstance(fields.get("min_tokens"), int):
            fields["min_tokens"] = min(fields["min_tokens"], 4)
        await self._ask(http, "garbled", self._body(fields))

    async def _elsewhere(self, http: httpx.AsyncClient) -> None:
        path, fields = self.rng.choice(ELSEWHERE)
        await self._ask(http, path, {"model": self.model} | fields, path)

    async def _leaves(self, http: httpx.AsyncClient) -> None:
        fields = self.rng.choice(CERTAIN) | {"stream": self.rng.random() < 0.5, "max_tokens": 200}
        fields.pop("prompt_logprobs", None)
        patience = self.rng.choice([0.01, 0.1, 0.3, 1.0])
        await self._ask(http, "leaves", self._body(fields), patience=patience)

    async def _ask(
        self, http: httpx.AsyncClient, kind: str, body: dict[str, Any],
        path: str = "v1/completions", patience: float = _TIME_OUT,
    ) -> Answer | None:  # fmt: skip
        """What the server says; None if that is an error, or comes too late for the client."""
        self.tally.sent += 1
        content = json.dumps(body)  # NaN and infinity included, which httpx would refuse
        headers = {"Content-Type": "application/json"}
        try:
            async with asyncio.timeout(patience):
                reply = await http.post(f"{self.url}/{path}", content=content, headers=headers)
        except TimeoutError:
            if patience == _TIME_OUT:
                raise
            self.tally.statuses[f"{kind} left"] += 1
            return None
        self.tally.statuses[f"{kind} {reply.status_code}"] += 1
        if reply.status_code >= 500:
            self._note_error(body, reply.text)
        if reply.status_code != 200 or path != "v1/completions":
            return None
        if body.get("stream"):
            return self._streamed(body, reply.text)
        choices = sorted(reply.json()["choices"], key=lambda choice: choice["index"])
        return [(choice["text"], choice["token_ids"]) for choice in choices]

    def _note_error(self, body: dict[str, Any], message: str) -> None:
        asked = {name: value for name, value in body.items() if value is not QUESTION}
        self.tally.errors.append((asked, message[:300]))

    def _streamed(self, body: dict[str, Any], text: str) -> Answer | None:
        said: dict[int, tuple[str, list[int]]] = {}
        for line in text.splitlines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                self._note_error(body, line)
                return None
            for choice in event["choices"]:
                text, tokens = said.get(choice["index"], ("", []))
                said[choice["index"]] = (
                    text + choice["text"], [*tokens, *(choice.get("token_ids") or [])]
                )  # fmt: skip
        return [said[index] for index in sorted(said)]
