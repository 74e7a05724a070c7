# SPDX-License-Identifier: Apache-2.0
"""The state machine: always the same examples, but for ``make fuzz``, which has more and others."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from .faults import FAULTS
from .machine import Machine

LONG = int(os.environ.get("FUZZ_EXAMPLES", "0"))
SETTINGS = settings(
    max_examples=LONG or 300,
    stateful_step_count=40,
    deadline=None,
    derandomize=not LONG,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

TestMachine = Machine.TestCase
TestMachine.settings = SETTINGS


def test_what_is_broken_is_found_and_shrunk():
    class Broken(Machine):
        parts, named = FAULTS["wrong has_initial_state"]

    with pytest.raises(AssertionError) as found:
        run_state_machine_as_test(Broken, settings=settings(SETTINGS, max_examples=50))
    assert Broken.named in str(found.value)
    assert str(found.value).count("('arrive'") == str(found.value).count("('step'") == 1
