# SPDX-License-Identifier: Apache-2.0
"""Which Triton functions were called in this process: an NPU compiles each at its first call."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

LAUNCHED: Counter[str] = Counter()


def counted(name: str, stand_in: Callable[..., Any]) -> Callable[..., Any]:
    """``stand_in``, each call of which counts as one of ``name``."""

    @functools.wraps(stand_in)
    def call(*args: Any, **kwargs: Any) -> Any:
        LAUNCHED[name] += 1
        return stand_in(*args, **kwargs)

    return call
