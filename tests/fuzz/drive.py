# SPDX-License-Identifier: Apache-2.0
"""Random sequences, one a seed: cheap enough for millions of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .model import Config
from .world import Action, Parts, World

LENGTHS = (1, 2, 3, 4, 5, 17, 63, 64, 65, 100, 127, 128, 129, 190, 700, 1215, 1216, 1217, 2500)


def random_config(rng: np.random.Generator) -> Config:
    config = Config(
        max_seqs=int(rng.integers(1, 7)),
        max_tokens=one_of(rng, [32, 200, 200, 2600]),
        groups=int(rng.integers(1, 4)),
        num_spec=one_of(rng, [0, 1, 2, 3, 3]),
        asynchronous=bool(rng.integers(2)),
        block_size=one_of(rng, [0, 0, 16, 64]),
        full_graph=bool(rng.integers(2)),
        slots=one_of(rng, ["host", "device", "kernel"]),
        value_heads=one_of(rng, [4, 32]),
    )
    if rng.random() < 0.15:
        ranks = int(rng.integers(2, 5))
        config = replace(
            config,
            num_spec=0,
            asynchronous=False,
            full_graph=False,
            block_size=0,
            ranks=ranks,
            rank=int(rng.integers(ranks)),
        )
    return config


def one_of(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[rng.integers(len(options))]  # in a tenth of rng.choice's time


def length(rng: np.random.Generator, most: int) -> int:
    if rng.random() < 0.5:
        return int(rng.integers(1, max(2, most)))
    return one_of(rng, LENGTHS)


def random_action(rng: np.random.Generator, world: World) -> Action:
    config, dice = world.config, rng.random()
    waiting = sum(not request.started for request in world.requests)
    if (dice < 0.15 and waiting < 2) or not world.requests:
        return "arrive", length(rng, config.max_tokens)
    if dice < 0.18:
        return "abort", int(rng.integers(8))
    if dice < 0.22:
        return "preempt", int(rng.integers(8)), bool(rng.integers(2))
    if dice < 0.25:
        lengths = [0 if rng.random() < 0.1 else length(rng, 8) for _ in range(rng.integers(1, 7))]
        return "dummy", lengths, one_of(rng, [0, 0, 9]), bool(rng.integers(2))
    if dice < 0.255:
        return "over", bool(rng.integers(2))
    if dice < 0.256:
        return ("renew",)
    goes_on = one_of(rng, [0.6, 0.95])
    wanted = []
    for request in world.requests:
        if rng.random() > goes_on:
            wanted.append([0, 1])
        elif request.sampled:
            full = rng.random() < 0.7
            tokens = 1 + config.num_spec if full else int(rng.integers(1, 2 + config.num_spec))
            wanted.append([tokens, int(rng.integers(1, tokens + 1))])
        else:
            left = request.known - request.computed
            wanted.append([left if rng.random() < 0.4 else length(rng, left), 1])
    return "step", wanted, bool(rng.random() < 0.2), bool(rng.integers(2))


def random_world(seed: int, actions: int, parts: Parts | None = None) -> World:
    """Run one sequence.

    Raises:
        Exception: What went wrong; its ``world`` has the actions that led to it.
    """
    rng = np.random.default_rng(seed)
    world = World(random_config(rng), parts)
    try:
        for _ in range(actions):
            world.do(random_action(rng, world))
    except Exception as error:
        error.world = world
        raise
    return world
