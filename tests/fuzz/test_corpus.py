# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from .corpus import SEQUENCES, Sequence
from .stand_ins import one_rank
from .world import World


@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda sequence: sequence.name)
def test_replays(sequence: Sequence):
    with one_rank():
        world = World(sequence.config)
        for action in sequence.actions:
            world.do(action)
    assert world.steps
