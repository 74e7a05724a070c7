# SPDX-License-Identifier: Apache-2.0
"""Runs the device fill in Triton's interpreter, on the CPU, in a process of its own.

``TRITON_INTERPRET`` must be set before Triton is imported, and is not for the tests' own process.
This one reads pickled (layout, buffer, number of sequences) and writes the buffer back.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from functools import cached_property

import numpy as np
import torch

from ascend_gdn.attention.table_layout import TableLayout

GUARD = 64


class GuardedLayout(TableLayout):
    """The same tables with ``GUARD`` elements of nobody's before each and after the last."""

    @cached_property
    def places(self) -> dict[str, slice]:
        places = TableLayout.places.func(self)
        return {
            name: slice(place.start + shift * GUARD, place.stop + shift * GUARD)
            for shift, (name, place) in enumerate(places.items(), 1)
        }

    @cached_property
    def num_elements(self) -> int:
        return TableLayout.num_elements.func(self) + (len(self.sizes) + 1) * GUARD


class InterpretedFill:
    """Calls the process; close it with ``with``."""

    def __enter__(self) -> InterpretedFill:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"TRITON_INTERPRET": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def __call__(self, layout: TableLayout, buffer: np.ndarray, num_seqs: int) -> np.ndarray:
        """Return ``buffer`` ([layout.num_elements] int32) as the kernel leaves it."""
        arguments = (
            type(layout) is GuardedLayout,
            (layout.max_seqs, layout.max_tokens, layout.num_groups, layout.cumsum_block),
        )
        pickle.dump((arguments, buffer, num_seqs), self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)


def main() -> None:
    from ascend_gdn.attention.device_fill import DeviceFill

    while True:
        try:
            (guarded, arguments), buffer, num_seqs = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        layout = (GuardedLayout if guarded else TableLayout)(*arguments)
        DeviceFill(layout)(torch.from_numpy(buffer), num_seqs)
        pickle.dump(buffer, sys.stdout.buffer)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
