# SPDX-License-Identifier: Apache-2.0
"""vLLM's own worker and ours, in turns under the same loads. ``python -m serving --help``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "examples"))
