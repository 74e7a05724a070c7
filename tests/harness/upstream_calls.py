# SPDX-License-Identifier: Apache-2.0
"""Calls of vLLM whose arguments differ between the versions that we support."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from vllm.model_executor.layers.mamba.mamba_utils import MambaStateCopyFuncCalculator
from vllm.v1.kv_cache_interface import MambaSpec

from ascend_gdn.runner.versions import STACKS, check_version

T = TypeVar("T")
OLDEST = check_version() is STACKS[0]
"""vLLM 0.23.0."""
COPY_FUNCS = MambaStateCopyFuncCalculator.gated_delta_net_state_copy_func()


def known(call: Callable[..., T], **arguments: Any) -> T:
    """``call`` with those of the arguments that the installed version has."""
    names = inspect.signature(call).parameters
    return call(**{name: each for name, each in arguments.items() if name in names})


def state_copy_funcs(spec: MambaSpec) -> Any:
    """A GDN model's, as ``preprocess_mamba`` takes them: from 0.30.0 on by the kind of state."""
    return COPY_FUNCS if OLDEST else {spec.mamba_type: COPY_FUNCS}
