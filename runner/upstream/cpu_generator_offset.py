# SPDX-License-Identifier: Apache-2.0
"""A seeded request whose prompt is cut into chunks ends the engine on CPU.

Each step samples a token for every row, also for one that is still in its prompt, and discards it.
For such a row vLLM then takes its generator back by what the draw took (``_bookkeeping_sync``,
v1/worker/gpu_model_runner.py:3589): ``set_offset``, which a CPU generator does not have. The engine
core dies of ``CPU Generator does not use offset``, and with it every request.

Versions: vLLM 0.23.0, 0.30.0. Delete when vLLM draws nothing for a row that it discards, or takes a
CPU generator back by its state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def generators_set_aside(
    generators: dict[int, torch.Generator], discarded: np.ndarray
) -> Iterator[None]:
    """Inside, the rows whose token is discarded have no generator: none is drawn from or rewound.

    Args:
        generators: The batch's, by row; the sampling metadata refers to the same dict.
        discarded: [rows], bool: rows still in their prompt, or computed again after a preemption.
    """
    aside = {
        row: generators.pop(row) for row in np.flatnonzero(discarded).tolist() if row in generators
    }
    try:
        yield
    finally:
        generators.update(aside)
