# SPDX-License-Identifier: Apache-2.0
"""The environment in which vLLM takes the paths of another CPU than this machine's."""

from __future__ import annotations

import os
from pathlib import Path


def with_python_path(*folders: Path) -> dict[str, str]:
    """The environment that finds modules in ``folders`` first, then where this process does."""
    found = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([*map(str, folders), *([found] if found else [])])}


OTHER_CPU = Path(__file__).parent / "other_cpu"
AVX2 = with_python_path(OTHER_CPU) | {"CPU_LIKE": "avx2"}
"""No AVX-512, no AMX."""
NO_AMX = with_python_path(OTHER_CPU) | {"CPU_LIKE": "no_amx"}
NATIVE = {"CPU_LIKE": ""}
"""This machine's, also where the tests have AMX hidden."""
HAS_AMX = "amx_tile" in Path("/proc/cpuinfo").read_text()
