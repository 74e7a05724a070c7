# SPDX-License-Identifier: Apache-2.0
"""What the module of a version of vLLM has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vllm.config import VllmConfig

from ascend_gdn.runner.checks.seams import Seams


class VllmVersion(Protocol):
    """Whatever the platform."""

    AlignedScheduler: type
    """For prefix caching with drafts; vLLM's own where that is right."""
    AlignedAsyncScheduler: type
    """The same with asynchronous scheduling."""

    def vllm_seams(self) -> Seams:
        """What every platform's worker overrides or calls."""

    def refuse_unaligned(self, vllm_config: VllmConfig) -> None:
        """Raise ``ValueError`` if a step may not reach the end of a block, where states are cached.
        The size of a block is known."""

    def gdn_copy_funcs(self, copy_funcs: Any) -> Sequence[Any]:
        """Of what a model has for copies of its states, what is for a GDN layer's."""


class CPUVersion(Protocol):
    """The CPU's."""

    StepCPUModelRunner: type[Any]
    """vLLM's CPU model runner with the step, and with what is corrected of it."""
    StepCPULayer: type[Any]
    """The GDN layer."""
    REPLACED: Mapping[type, type]
    """Other layers of vLLM's, and what is made in their place."""
