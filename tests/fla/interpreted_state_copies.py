# SPDX-License-Identifier: Apache-2.0
"""Runs ``leave_states`` in Triton's interpreter, on the CPU, in a process of its own.

``TRITON_INTERPRET`` must be set before Triton is imported, and is not for the tests' own process.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from .state_copies import States, Step


def interpreted(steps: list[tuple[Step, States]]) -> list[tuple[States, np.ndarray]]:
    """The states as the kernel leaves them, and the next accepted counts."""
    process = subprocess.run(
        [sys.executable, "-P", __file__],
        input=pickle.dumps([(vars(step), vars(states)) for step, states in steps]),
        capture_output=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        check=False,
    )
    assert process.returncode == 0, process.stderr.decode()[-3000:]
    from .state_copies import States

    return [(States(**states), counts) for states, counts in pickle.loads(process.stdout)]


def main() -> None:
    sys.path.append(str(Path(__file__).parent))
    import torch
    from state_copies import States, Step, leave_states

    results = []
    for step, fields in pickle.load(sys.stdin.buffer):
        states = States(**fields)
        counts = leave_states(Step(**step), states, torch.device("cpu"))
        results.append((vars(states), counts))
    pickle.dump(results, sys.stdout.buffer)


if __name__ == "__main__":
    main()
