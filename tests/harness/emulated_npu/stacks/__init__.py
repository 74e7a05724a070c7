# SPDX-License-Identifier: Apache-2.0
"""What differs between the releases of vllm-ascend that run here: a module each."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version

from .common import Stack

_MODULES = {"0.23.0.post1": "v0_23", "0.30.0rc2": "v0_30"}


def installed_stack() -> Stack:
    """That of the installed vllm-ascend."""
    module = import_module(f"{__name__}.{_MODULES[version('vllm-ascend')]}")
    stack: Stack = module.STACK
    return stack
