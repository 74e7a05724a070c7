# SPDX-License-Identifier: Apache-2.0
"""Random sequences in volume: ``make fuzz``, or ``python tests/fuzz --steps 1000000``."""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
sys.path[0] = str(FOLDER.parent / "harness")  # and not tests: there is a tests/fla
spec = spec_from_file_location(
    "fuzz", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
)
sys.modules["fuzz"] = module_from_spec(spec)

from fuzz.drive import random_world  # noqa: E402
from fuzz.shrink import shrink  # noqa: E402
from fuzz.stand_ins import one_rank  # noqa: E402


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=1_000_000, help="steps to run, at least")
    options.add_argument("--seed", type=int, default=0, help="of the first sequence; then the next")
    options.add_argument("--actions", type=int, default=200, help="of a sequence")
    options.add_argument("--keep-on", action="store_true", help="after a fault")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    started = shown = time.monotonic()
    steps = sequences = faults = 0
    with one_rank():
        while steps < arguments.steps and (arguments.keep_on or not faults):
            seed = arguments.seed + sequences
            sequences += 1
            try:
                steps += random_world(seed, arguments.actions).steps
            except Exception as error:
                faults += 1
                steps += error.world.steps
                short = shrink(error)
                print(f"\nseed {seed}: {type(short).__name__}: {short}\nFor tests/fuzz/corpus.py:")
                print(short.world.as_python(), flush=True)
            now = time.monotonic()
            if now - shown > 10:
                shown, rate = now, steps / (now - started)
                print(f"{steps} steps, {rate:.0f}/s, seed {seed}, {faults} faults", flush=True)
    seconds = time.monotonic() - started
    first = f"from seed {arguments.seed}, {seconds:.0f} s"
    print(f"{steps} steps in {sequences} sequences, {faults} faults ({first})", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
