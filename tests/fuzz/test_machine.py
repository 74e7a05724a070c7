# SPDX-License-Identifier: Apache-2.0
"""The state machine: always the same examples, but for ``make fuzz``, which has more and others."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from .machine import Machine

LONG = int(os.environ.get("FUZZ_EXAMPLES", "0"))

TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=LONG or 500,
    stateful_step_count=40,
    deadline=None,
    derandomize=not LONG,
    database=None,
    suppress_health_check=list(HealthCheck),
)
