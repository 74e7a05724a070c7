# SPDX-License-Identifier: Apache-2.0
"""The scheduler, our runner under it, and the model beside it.

An action is a name and plain numbers, and any numbers make sense: those that fit nothing do
nothing. So sequences of actions can be cut, shrunk, written down and replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from vllm.v1.core.sched.output import SchedulerOutput

from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.pool import StepBufferPool

from .builders import builder_cls
from .checks import Fault, require
from .model import NULL_BLOCK, Config, Row, Step
from .runner import Runner
from .scheduler import Request, Scheduler, Turn
from .slots import Slots

Action = Sequence[Any]


@dataclass
class Parts:
    """What of ours runs; another to break something on purpose (``faults.py``)."""

    runner_cls: type = Runner
    builder_base: type | None = None
    pool_cls: type = StepBufferPool


class World:
    """Everything of one sequence.

    Args:
        config: Of the worker.
        parts: What runs.
    """

    def __init__(self, config: Config, parts: Parts | None = None) -> None:
        self.config, self.parts = config, parts or Parts()
        self.actions: list[Action] = []
        self.steps = 0
        self.scheduler = Scheduler(config)
        cls = builder_cls(config)
        if self.parts.builder_base is not None:
            cls = type("Builder", (self.parts.builder_base, cls), {})
        self.runner = self.parts.runner_cls(config, cls)
        self.slots = Slots(config, self.runner.gdn_steps, self.parts.pool_cls)

    @property
    def requests(self) -> list[Request]:
        return self.scheduler.requests

    def do(self, action: Action) -> None:
        self.actions.append(action)
        name, *arguments = action
        getattr(self, name)(*arguments)

    def arrive(self, prompt: int) -> None:
        """A request with a prompt of that many tokens, under the first name that is free."""
        self.scheduler.arrive(prompt)

    def abort(self, which: int) -> None:
        if self.requests:
            self.scheduler.abort(self.requests[which % len(self.requests)])

    def preempt(self, which: int, at_once: bool) -> None:
        """Take its blocks; ``at_once``: as a reset of the prefix cache does, after which it may run
        again in the next step, and is not named among those preempted."""
        self.scheduler.preempt(which, at_once)

    def step(
        self, wanted: Sequence[Sequence[int]], behind: bool = False, early: bool = False
    ) -> None:
        """A step of the scheduler.

        Args:
            wanted: Of each request, in the order of arrival: tokens to compute (0: it sits out;
                more than one of a request that decodes are drafts), and how many are kept.
            behind: Slots' copies are still under way when they are taken again.
            early: The accepted counts are there before anything waits for them.
        """
        scheduler = self.scheduler
        turns = scheduler.choose(wanted)
        output = scheduler.output(turns)
        self.runner._update_states(output)
        self._check_left_out(turns)
        if turns:
            self._run(output, turns, behind)
            self.runner.end_step(*scheduler.end(turns), early)
        scheduler.step_number += 1

    def dummy(self, lengths: Sequence[int], earlier: int, capture: bool) -> None:
        """A dummy batch; ``earlier``: tokens of earlier steps, of each row."""
        config, width, used = self.config, self.config.num_spec + 1, []
        for length in lengths[: config.max_seqs]:
            used.append(min(length, config.max_tokens - sum(used)))
        if capture:  # decodes, as graphs are captured for
            used = [width] * min(len(used), config.max_tokens // width)
        if not sum(used):
            return
        if config.num_spec:  # of rows without tokens, vLLM has only padding, which comes last
            used.sort(key=lambda length: length == 0)
        drafts = 1 if config.num_spec and max(used) <= width else -1
        blocks = [[NULL_BLOCK] * width for _ in range(config.groups)]
        rows = [Row(length, earlier, drafts, 1, blocks, length) for length in used]
        tokens = np.array(used, dtype=np.int32)
        self.slots.before_step(False)
        found = self.runner._dummy_run(tokens, tokens + earlier, capture)
        self.slots.after_step(Step(config, rows, sum(used), dummy=True), found)
        self.steps += 1

    def over(self, sequences: bool) -> None:
        """A batch larger than the configuration: refused, and nothing is changed."""
        count = self.config.max_seqs + 1 if sequences else 1
        length = 2 if sequences else self.config.max_tokens + 1
        tokens = np.full(count, length, dtype=np.int32)
        try:
            self.runner._dummy_run(tokens, tokens, False)
        except GDNContractError as error:
            require("capacity", error.field, "capacity")
        else:
            raise Fault("capacity", "a step beyond it", "an error")
        self.slots.require_untouched("by a step that was refused")

    def renew(self) -> None:
        """vLLM sets up the KV cache anew, with all requests gone."""
        self.scheduler = Scheduler(self.config)
        self.runner.left_out.clear()
        self.runner.initialize_kv_cache()
        self.slots.require_closed()
        self.slots = Slots(self.config, self.runner.gdn_steps, self.parts.pool_cls)

    def _run(self, output: SchedulerOutput, turns: list[Turn], behind: bool) -> None:
        config, runner, batch = self.config, self.runner, self.runner.input_batch
        lengths = runner._prepare_inputs(output)
        by_name = {turn.request.name: turn for turn in turns}
        require("input_batch.req_ids", sorted(batch.req_ids), sorted(by_name))
        in_order = [by_name[name] for name in batch.req_ids]
        runner.mamba_state_idx.update(
            (turn.request.name, self.scheduler.state_column(turn)) for turn in turns
        )
        rows = [
            self.scheduler.row(turn, own)
            for turn, own in zip(in_order, lengths.tolist(), strict=True)
        ]
        found = runner.optimistic_seq_lens_cpu[: len(rows)].tolist()
        require("seq_lens on the host", found, [row.context + row.tokens for row in rows])
        self._check_counts([row.kept for row in rows])
        padded, tokens = 0, int(lengths.sum())
        if config.ranks == 1:
            graph = all(self._fits_graph(turn) for turn in turns)
            replayed = runner._determine_batch_execution_and_padding(tokens, len(rows), lengths)
            require("decode graph", bool(replayed), graph)
            if config.full_graph and graph:
                size = self._graph_size(len(rows))
                padded = size * (1 + config.num_spec)
                rows += [Row(0) for _ in range(size - len(rows))]
        self.slots.before_step(behind)
        found = runner.run(lengths, padded, bool(output.scheduled_spec_decode_tokens))
        self.slots.after_step(Step(config, rows, padded or tokens), found)
        self.steps += 1

    def _fits_graph(self, turn: Turn) -> bool:
        """Whether it decodes: past its prompt, with all the drafts that there may be."""
        request, tokens = turn.request, turn.tokens
        decodes = request.computed >= request.prompt and (tokens == 1 or request.sampled)
        return decodes and tokens == 1 + self.config.num_spec

    def _graph_size(self, requests: int) -> int:
        """Captured for 1, 2, 4, … requests."""
        size = 1
        while size < requests:
            size *= 2
        return min(size, self.config.max_seqs)

    def _check_counts(self, kept: list[int]) -> None:
        if self.config.num_spec:
            device, host = self.runner.num_accepted_tokens.gpu, self.runner.input_batch
            rows = len(kept)
            require("num_accepted_tokens on the device", device[:rows].tolist(), kept)
            counts = host.num_accepted_tokens_cpu[:rows].tolist()  # for preprocess_mamba
            require("num_accepted_tokens on the host", counts, kept)

    def _check_left_out(self, turns: list[Turn]) -> None:
        going = {turn.request.name for turn in turns}
        for request in self.requests:
            out = request.started and not request.preempted and request.name not in going
            if self.config.num_spec and out:
                found = self.runner.left_out.get(request.name)
                require(f"left_out[{request.name}]", found, request.kept)

    def as_python(self) -> str:
        """The sequence so far, to be pasted into ``corpus.py``."""
        default = asdict(Config())
        settings = ", ".join(
            f"{name}={value!r}"
            for name, value in asdict(self.config).items()
            if value != default[name]
        )
        lines = "".join(f"            {tuple(action)!r},\n" for action in self.actions)
        config = f'"name",\n        Config({settings})'
        return f"    Sequence(\n        {config},\n        [\n{lines}        ],\n    ),"
