# SPDX-License-Identifier: Apache-2.0
"""What the module of a version of vLLM-Ascend has."""

from __future__ import annotations

from typing import Any, Protocol

from vllm.config import VllmConfig

from ascend_gdn.runner.checks.errors import Refusal
from ascend_gdn.runner.checks.seams import Seams


class AscendVersion(Protocol):
    """What the NPU takes from it."""

    StepNPUModelRunner: type[Any]
    """Its model runner with the step, and with what is corrected of it."""

    def is_310p(self) -> bool:
        """Whether the device is an Atlas 300I (310P)."""

    def ascend_seams(self) -> Seams:
        """What the NPU worker and its layers override or call of it."""

    def refusals(self, vllm_config: VllmConfig, has_gdn_layers: bool) -> tuple[Refusal, ...]:
        """What this version does not serve, each with whether it is asked for."""

    def repair(self, vllm_config: VllmConfig) -> None:
        """Set what this version sets only for ``--worker-cls auto``."""

    def layer_cls(self, vllm_config: VllmConfig) -> type[Any]:
        """The GDN layer. It builds on operators that are there once vLLM's worker is made."""

    def prefill_operators(self) -> str:
        """Whose run its prefills, for the log; as ``layer_cls``."""
