# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend's platform with its tensors on the CPU."""

from __future__ import annotations

import torch
from vllm_ascend.platform import NPUPlatform


class EmulatedPlatform(NPUPlatform):
    """What vLLM takes for its current platform."""

    device_name = "cpu"
    device_type = "cpu"
    dispatch_key = "CPU"

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        return False

    def __getattr__(self, name: str) -> object:
        """Where vLLM asks its platform for a function of the device's module."""
        if name.startswith("__"):
            raise AttributeError(name)  # or pickle would call what it gets
        return getattr(torch.npu, name)
