# SPDX-License-Identifier: Apache-2.0
"""Commands run in this process quieten vLLM's log by its environment; later servers must not."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def own_environment(mocker):
    mocker.patch.dict(os.environ)
