# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from ascend_gdn.runner.upstream.cpu_generator_offset import generators_set_aside


def seeded(*rows: int) -> dict[int, torch.Generator]:
    return {row: torch.Generator().manual_seed(row) for row in rows}


def test_discarded_rows_are_not_drawn_from_and_come_back_as_they_were():
    generators = seeded(0, 2, 3)
    whole = dict(generators)
    before = {row: generator.get_state() for row, generator in generators.items()}
    with generators_set_aside(generators, np.array([True, True, False, True])):
        assert generators == {2: whole[2]}
        for generator in generators.values():
            torch.empty(5).exponential_(generator=generator)
    assert generators == whole
    assert [row for row in before if torch.equal(before[row], whole[row].get_state())] == [0, 3]


def test_they_come_back_after_an_error():
    generators = seeded(1)
    whole = dict(generators)
    with (
        pytest.raises(ZeroDivisionError),
        generators_set_aside(generators, np.array([False, True])),
    ):
        raise ZeroDivisionError
    assert generators == whole


def test_upstream_rewinds_what_a_cpu_generator_has_not():
    # Fails when the correction can go.
    with pytest.raises(RuntimeError, match="does not use offset"):
        torch.Generator().get_offset()
