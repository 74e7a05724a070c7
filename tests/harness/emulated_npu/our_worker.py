# SPDX-License-Identifier: Apache-2.0
"""Our NPU worker on the emulated device."""

from __future__ import annotations

from ascend_gdn.runner.npu import NPUWorker

from .worker import EmulatedDevice


class OurWorker(EmulatedDevice, NPUWorker):
    """``ascend_gdn.runner.NPUWorker``, whose device is the CPU here."""

    device_type = "cpu"
