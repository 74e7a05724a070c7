# SPDX-License-Identifier: Apache-2.0
"""Workers of vllm-ascend on the emulated device."""

from __future__ import annotations

import torch
from vllm.model_executor.layers.mamba.abstract import MambaBase
from vllm.utils.mem_utils import MemorySnapshot
from vllm.utils.torch_utils import set_random_seed
from vllm_ascend.worker.worker import NPUWorker

from .launches import LAUNCHED


class EmulatedDevice:
    """Mix this in before a worker derived from vllm-ascend's ``NPUWorker``.

    Overrides ``_init_device``, which names the device "npu" itself, and ``_warm_up_atb``, a
    multiplication for the sake of a library that is not there (worker/worker.py, 0.23.0).
    """

    def _init_device(self) -> torch.device:
        self.init_snapshot = MemorySnapshot()
        self.requested_memory = self.init_snapshot.total_memory
        self._init_worker_distributed_environment()
        set_random_seed(self.model_config.seed)
        return torch.device("cpu")

    def _warm_up_atb(self) -> None: ...

    def launched(self) -> dict[str, int]:
        """How often each Triton function was called in this process."""
        return dict(LAUNCHED)

    def written_blocks(self) -> list[int]:
        """Which blocks some GDN layer's states are not all zero in."""
        layers = self.compilation_config.static_forward_context.values()
        states = [
            state for layer in layers if isinstance(layer, MambaBase) for state in layer.kv_cache
        ]
        return sorted(
            {row for state in states for row in state.flatten(1).any(1).nonzero()[:, 0].tolist()}
        )


class StockWorker(EmulatedDevice, NPUWorker):
    """vllm-ascend's own worker and, unmodified, its model runner."""
