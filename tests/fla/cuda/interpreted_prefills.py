# SPDX-License-Identifier: Apache-2.0
"""Runs the prefill's kernels in Triton's interpreter, on the CPU, in a process of its own.

``TRITON_INTERPRET`` must be set before Triton is imported, and is not for the tests' own process.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .prefills import Case


def interpreted(cases: list[Case], processors: int) -> list[SimpleNamespace]:
    """What the kernels leave of each case."""
    process = subprocess.run(
        [sys.executable, "-P", __file__],
        input=pickle.dumps(([vars(case) for case in cases], processors)),
        capture_output=True,
        env=os.environ | {"TRITON_INTERPRET": "1", "VLLM_LOGGING_STREAM": "ext://sys.stderr"},
        check=False,
    )
    assert process.returncode == 0, process.stderr.decode()[-3000:]
    return [SimpleNamespace(**found) for found in pickle.loads(process.stdout)]


def main() -> None:
    sys.path.append(str(Path(__file__).parent))
    import torch

    from ascend_gdn.fla.cuda import chunk, conv, launch

    launch.has_known_launcher = lambda: False  # of compiled kernels; the interpreter has none
    conv.current_stream = chunk.current_stream = lambda device: 0
    from prefills import Case, Prefills

    torch.use_deterministic_algorithms(True)  # fills what is allocated with NaN
    cases, processors = pickle.load(sys.stdin.buffer)
    found = [Prefills(Case(**case), torch.device("cpu")).run(processors) for case in cases]
    pickle.dump([vars(each) for each in found], sys.stdout.buffer)


if __name__ == "__main__":
    main()
