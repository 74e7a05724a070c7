# SPDX-License-Identifier: Apache-2.0
"""Lets a job, which runs as a script, import the emulated NPU and the jobs of tests/engine."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "harness"), str(TESTS / "engine")]
