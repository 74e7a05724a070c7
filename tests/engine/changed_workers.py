# SPDX-License-Identifier: Apache-2.0
"""Workers that change one thing each: most break the contract, and the engine must not go on."""

from __future__ import annotations

import sys
import time

import torch
from oracle import Oracle
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.v1.worker.cpu_worker import CPUWorker as VllmCPUWorker

from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata
from ascend_gdn.runner.cpu import CPUWorker, StepCPUModelRunner
from ascend_gdn.runner.upstream.late_compiles import CompiledAtStartMixin
from ascend_gdn.runner.upstream.moe_activation import ContextFreeSiluAndMul
from ascend_gdn.runner.worker import register_out_of_tree


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


class FlippingRunner(StepCPUModelRunner):
    """Breaks a table of every step on its way to the device."""

    def bind_gdn_builders(self) -> None:
        super().bind_gdn_builders()
        pool = self.gdn_steps.pool
        publish = pool.publish

        def flip(slot, *arguments: int) -> None:
            publish(slot, *arguments)
            slot.device_tables["state_indices"][0, 0] ^= 1

        pool.publish = flip


class FlippingWorker(CPUWorker):
    model_runner_cls = FlippingRunner


class MadeUpRequestsRunner(CompiledAtStartMixin, StepCPUModelRunner):
    """As on a GPU, where Triton's kernels are compiled by them."""

    def warm_up_prefill(self) -> None:
        super().warm_up_prefill()
        self.run_made_up_requests()


class MadeUpRequestsWorker(CPUWorker):
    model_runner_cls = MadeUpRequestsRunner


class AmxWorker(CPUWorker):
    """Loads the weights of convolutions and experts as vLLM does float32 on a CPU with AMX."""

    def load_model(self, **kwargs) -> None:
        # vLLM asks in several places; the answer is yes only where it packs a convolution, and
        # where it finds no grouped matrix product for experts.
        torch.cpu._is_amx_tile_supported = lambda: (
            sys._getframe(1).f_code.co_name
            in ("dispatch_cpu_unquantized_gemm", "check_grouped_gemm")
        )
        super().load_model(**kwargs)


class LongWarmUpWorker(CPUWorker):
    """Starts as slowly as with a model of many layers."""

    def compile_or_warm_up_model(self):
        time.sleep(600)


class HelpedStockWorker(VllmCPUWorker):
    """vLLM's own worker, which without help starts no mixture of experts on some CPUs."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        register_out_of_tree(ContextFreeSiluAndMul, SiluAndMul)


class OracleRunner(StepCPUModelRunner):
    """Drafts what the oracle says."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.oracle = Oracle()

    def propose_draft_token_ids(self, scheduler_output, sampled_token_ids, *args, **kwargs):
        drafts = super().propose_draft_token_ids(
            scheduler_output, sampled_token_ids, *args, **kwargs
        )
        for row, req_id in enumerate(self.input_batch.req_ids):
            request = self.requests[req_id]
            said = len(request.output_token_ids) + int((sampled_token_ids[row] != -1).sum())
            self.oracle.draft(drafts[row], request.prompt_token_ids, said)
        return drafts


class OracleWorker(CPUWorker):
    def make_model_runner(self):
        return OracleRunner(self.vllm_config, torch.device("cpu"))


class AttentiveDummyWorker(CPUWorker):
    """Gives every other dummy batch attention metadata, as full graphs want it."""

    dummies = 0

    def execute_dummy_batch(self) -> None:
        self.dummies += 1
        self.model_runner._dummy_run(1, uniform_decode=True, force_attention=self.dummies % 2 == 0)

    def count_dummies(self) -> int:
        return self.dummies
