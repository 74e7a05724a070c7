# SPDX-License-Identifier: Apache-2.0
"""Cuts a sequence that found a fault down to what it takes."""

from __future__ import annotations

from collections.abc import Iterator

from .model import Config
from .world import Action, Parts, World


def failure(config: Config, actions: list[Action], parts: Parts | None = None) -> Exception | None:
    """What the sequence ends with; the error's ``world`` has the actions up to it."""
    world = World(config, parts)
    try:
        for action in actions:
            world.do(action)
    except Exception as error:
        error.world = world
        return error
    return None


def shrink(error: Exception, parts: Parts | None = None, tries: int = 3000) -> Exception:
    """The same error of a short sequence."""
    config, kind = error.world.config, kind_of(error)
    while True:
        for actions in shorter(list(error.world.actions)):
            tries -= 1
            found = failure(config, actions, parts)
            if found is not None and kind_of(found) == kind:
                error = found
                break
            if tries <= 0:
                return error
        else:
            return error


def kind_of(error: Exception) -> tuple[type, str]:
    where = getattr(error, "where", "")
    return type(error), where.partition("[")[0]


def shorter(actions: list[Action]) -> Iterator[list[Action]]:
    """Without some actions, or with simpler ones, the boldest first."""
    size = len(actions) // 2
    while size:
        for start in range(0, len(actions), size):
            yield actions[:start] + actions[start + size :]
        size //= 2
    for place, action in enumerate(actions):
        for simple in simpler(action):
            yield [*actions[:place], simple, *actions[place + 1 :]]


def simpler(action: Action) -> Iterator[Action]:
    name, *arguments = action
    for place, value in enumerate(arguments):
        for less in smaller(value):
            yield [name, *arguments[:place], less, *arguments[place + 1 :]]


def smaller(value: object) -> Iterator[object]:
    if isinstance(value, bool):
        if value:
            yield False
    elif isinstance(value, int):
        yield from sorted({0, 1, value // 2, value - 1} & set(range(value)))
    elif isinstance(value, (list, tuple)):
        for place, each in enumerate(value):
            if isinstance(each, (list, tuple)) or len(value) != 2:
                yield [*value[:place], *value[place + 1 :]]
            for less in smaller(each):
                yield [*value[:place], less, *value[place + 1 :]]
