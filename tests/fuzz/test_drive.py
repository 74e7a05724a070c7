# SPDX-License-Identifier: Apache-2.0
"""Some random sequences, and that such would find what is broken."""

from __future__ import annotations

import pytest

from .drive import random_world
from .faults import FAULTS
from .shrink import shrink
from .stand_ins import one_rank

SEQUENCES, ACTIONS = 120, 200


@pytest.mark.parametrize("first", range(0, SEQUENCES, 20))
def test_random_sequences(first):
    with one_rank():
        assert sum(random_world(seed, ACTIONS).steps for seed in range(first, first + 20)) > 2000


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_broken_is_found_and_named(fault):
    parts, named = FAULTS[fault]
    with one_rank():
        error = next(filter(None, (failure_of(seed, parts) for seed in range(SEQUENCES))), None)
        assert error is not None, "not found"
        short = shrink(error, parts, tries=200)
    assert named in short.where
    assert len(short.world.actions) < 20
    assert "Sequence(" in short.world.as_python()


def failure_of(seed, parts):
    try:
        random_world(seed, ACTIONS, parts)
    except AssertionError as error:
        return error
    return None
