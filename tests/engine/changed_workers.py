# SPDX-License-Identifier: Apache-2.0
"""Workers that change one thing each: most break the contract, and the engine must not go on."""

from __future__ import annotations

import torch

from ascend_gdn.attention.builder import StepGDNAttentionMetadata
from ascend_gdn.runner.cpu import CPUWorker, StepCPUModelRunner


class TamperingRunner(StepCPUModelRunner):
    """Changes the metadata of prefill steps after it has been built."""

    def _build_attention_metadata(self, *args, **kwargs):
        metadata, common = super()._build_attention_metadata(*args, **kwargs)
        for group in {id(group): group for group in metadata.values()}.values():
            if isinstance(group, StepGDNAttentionMetadata):
                self.tamper(group)
        return metadata, common


class DroppingRunner(TamperingRunner):
    def tamper(self, group: StepGDNAttentionMetadata) -> None:
        group.non_spec_prefill_fallback_meta = None


class ReplayingRunner(TamperingRunner):
    """Hands every step the metadata of the first one."""

    first = None

    def tamper(self, group: StepGDNAttentionMetadata) -> None:
        self.first = self.first or group.non_spec_prefill_fallback_meta
        group.non_spec_prefill_fallback_meta = self.first


class DroppingWorker(CPUWorker):
    def make_model_runner(self):
        return DroppingRunner(self.vllm_config, torch.device("cpu"))


class ReplayingWorker(CPUWorker):
    def make_model_runner(self):
        return ReplayingRunner(self.vllm_config, torch.device("cpu"))


class AmxWorker(CPUWorker):
    """Believes to be on a CPU with AMX from the moment on that the model is loaded."""

    def make_model_runner(self):
        torch.cpu._is_amx_tile_supported = lambda: True
        return super().make_model_runner()
