# SPDX-License-Identifier: Apache-2.0
"""A scheduler that does what it is told, and knows exactly what each request has computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput

from .model import Config, Row

MAX_PROMPT, MAX_OUTPUT = 3000, 60
SAMPLING = SamplingParams()


@cache
def prompt_tokens(length: int) -> list[int]:
    return [5] * length


@dataclass
class Request:
    name: str
    prompt: int
    known: int
    """Tokens of the prompt and of the answer so far."""
    computed: int = 0
    kept: int = 1
    """Tokens that it kept of its last step."""
    rejected: int = 0
    """Drafts that its last step lost, ..."""
    last_step: int = -1
    """... and which step that was."""
    sampled: bool = False
    """All known tokens but one are computed: it decodes."""
    blocks: list[list[int]] = field(default_factory=list)
    """A KV cache group each, attention's included."""
    started: bool = False
    preempted: bool = False

    def next_tokens(self, wanted: int, num_spec: int, budget: int) -> int:
        most = 1 + num_spec if self.sampled else self.known - self.computed
        return max(min(wanted, most, budget), 0)


@dataclass
class Turn:
    """What a request does in a step."""

    request: Request
    tokens: int
    kept: int
    """Tokens that it will keep."""


class Scheduler:
    """As vLLM's, but that it is told who gets how many tokens."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.requests: list[Request] = []
        self.finished: set[str] = set()
        self.preempted: set[str] = set()
        self.step_number = 0
        self.free, self.next_block = deque[int](), 1

    def arrive(self, prompt: int) -> None:
        if len(self.requests) < self.config.max_seqs + 2:
            names = {request.name for request in self.requests}
            name = next(name for name in "abcdefghij" if name not in names)
            prompt = 1 + (prompt - 1) % MAX_PROMPT
            self.requests.append(Request(name, prompt, prompt))

    def abort(self, request: Request) -> None:
        self.requests.remove(request)
        self._give_back(request)
        if request.started:
            self.finished.add(request.name)
            self.preempted.discard(request.name)

    def preempt(self, which: int, at_once: bool) -> None:
        running = [each for each in self.requests if each.started and not each.preempted]
        if not running:
            return
        request = running[which % len(running)]
        self._give_back(request)
        request.preempted, request.sampled = True, False
        request.computed = request.rejected = 0
        if not at_once:
            self.preempted.add(request.name)

    def choose(self, wanted: Sequence[Sequence[int]]) -> list[Turn]:
        """Who gets what: ``wanted`` as far as the budget and the request allow it."""
        budget, turns = self.config.max_tokens, []
        for request, (tokens, kept) in zip(list(self.requests), wanted, strict=False):
            if request.name in self.preempted or len(turns) == self.config.max_seqs:
                continue
            if request.known >= request.prompt + MAX_OUTPUT:
                self.abort(request)
                continue
            count = request.next_tokens(tokens, self.config.num_spec, budget)
            if count:
                budget -= count
                turns.append(Turn(request, count, min(max(kept, 1), count)))
        return turns

    def output(self, turns: list[Turn]) -> SchedulerOutput:
        tokens = {turn.request.name: turn.tokens for turn in turns}
        new, cached, resumed, blocks, drafts = [], [], set(), [], {}
        for turn in turns:
            request = turn.request
            if request.sampled and turn.tokens > 1:
                draft = -1 if self.config.asynchronous else 7
                drafts[request.name] = [draft] * (turn.tokens - 1)
            taken = self._take_blocks(turn)
            if not request.started:
                request.started = True
                new.append(
                    NewRequestData(
                        req_id=request.name,
                        prompt_token_ids=prompt_tokens(request.prompt),
                        mm_features=[],
                        sampling_params=SAMPLING,
                        pooling_params=None,
                        block_ids=taken,
                        num_computed_tokens=0,
                        lora_request=None,
                    )
                )
                continue
            cached.append(request)
            if request.preempted:
                resumed.add(request.name)
                request.preempted = False
            blocks.append(taken if any(taken) else None)
        finished, preempted = self.finished, self.preempted
        self.finished, self.preempted = set(), set()
        return SchedulerOutput(
            scheduled_new_reqs=new,
            scheduled_cached_reqs=CachedRequestData(
                req_ids=[request.name for request in cached],
                resumed_req_ids=resumed,
                new_token_ids=[],
                all_token_ids={},
                new_block_ids=blocks,
                num_computed_tokens=[self.computed_as_sent(request) for request in cached],
                num_output_tokens=[0] * len(cached),
            ),
            num_scheduled_tokens=tokens,
            total_num_scheduled_tokens=sum(tokens.values()),
            scheduled_spec_decode_tokens=drafts,
            scheduled_encoder_inputs={},
            num_common_prefix_blocks=[0],
            finished_req_ids=finished,
            free_encoder_mm_hashes=[],
            preempted_req_ids=preempted,
        )

    def end(self, turns: list[Turn]) -> tuple[dict[str, int], set[str]]:
        """What each request kept of the step, and which have no token of it yet."""
        partial = set()
        for turn in turns:
            request = turn.request
            request.last_step, request.rejected, request.kept = self.step_number, 0, 1
            if request.sampled:
                request.kept = turn.kept
                request.computed += turn.kept
                request.known += turn.kept
                request.rejected = turn.tokens - turn.kept
                continue
            request.computed += turn.tokens
            if request.computed == request.known:
                request.known += 1
                request.sampled = True
            else:
                partial.add(request.name)
        return {turn.request.name: turn.request.kept for turn in turns}, partial

    def computed_as_sent(self, request: Request) -> int:
        """A scheduler that is a step ahead takes all drafts for accepted."""
        ahead = self.config.asynchronous and request.last_step == self.step_number - 1
        return request.computed + (request.rejected if ahead else 0)

    def state_column(self, turn: Turn) -> int:
        """Of the block table: where the running state is."""
        if not self.config.block_size:
            return 0
        last = self.computed_as_sent(turn.request) + turn.tokens - 1
        return last // self.config.block_size

    def row(self, turn: Turn, own_tokens: int) -> Row:
        """The model's, with the tokens that this rank has."""
        request, first = turn.request, self.state_column(turn)
        blocks = [blocks[first : first + 1 + self.config.num_spec] for blocks in request.blocks]
        del blocks[1]  # attention's
        return Row(
            tokens=own_tokens,
            context=self.computed_as_sent(request),
            drafts=turn.tokens - 1 if request.sampled and turn.tokens > 1 else -1,
            kept=request.kept if request.sampled else 1,
            blocks=blocks,
            whole=turn.tokens,
        )

    def _take_blocks(self, turn: Turn) -> tuple[list[int], ...]:
        count, request = self.state_column(turn) + 1 + self.config.num_spec, turn.request
        if not request.blocks:
            request.blocks = [[] for _ in range(self.config.groups + 1)]
        taken = []
        for own in request.blocks:
            more = [self._block() for _ in range(count - len(own))]
            own.extend(more)
            taken.append(more)
        return tuple(taken)

    def _block(self) -> int:
        if len(self.free) > 8:
            return self.free.popleft()
        self.next_block += 1
        return self.next_block - 1

    def _give_back(self, request: Request) -> None:
        for own in request.blocks:
            self.free.extend(own)
        request.blocks = []
