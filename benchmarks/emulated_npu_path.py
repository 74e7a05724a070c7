# SPDX-License-Identifier: Apache-2.0
"""Lets a benchmark import the emulated NPU, which the tests own."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests/emulation"))
