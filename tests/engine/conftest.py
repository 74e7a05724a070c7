# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from tiny_checkpoint import TinySizes, write_checkpoint


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """A float32 checkpoint that loads quickly."""
    sizes = TinySizes(dtype="float32", layers=4, head_dim=64)
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "small", sizes)
