# SPDX-License-Identifier: Apache-2.0
"""Lets a benchmark import what it shares with the tests: tests/harness."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests/harness"))
