# SPDX-License-Identifier: Apache-2.0
"""vLLM-Ascend 0.30.0rc2, over vLLM 0.30.0 with its V1 runner.

Corrected there: the two fences of 0.23.0 (``_stage_mamba_copy_metadata`` in
patch/worker/patch_mamba_utils.py, ``synchronize_input_prep`` in ``_dummy_run``). Gone: prefill
context parallelism, which its platform refuses itself.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from vllm.config import VllmConfig
from vllm_ascend.device.hardware_profile import HardwareCapability, get_current_hardware_profile
from vllm_ascend.worker.model_runner_v1 import NPUModelRunner

from ascend_gdn.runner.checks.errors import Refusal
from ascend_gdn.runner.checks.npu_seams import common_ascend_seams
from ascend_gdn.runner.checks.seams import Seams
from ascend_gdn.runner.npu_runner import StepNPUModelRunnerMixin
from ascend_gdn.runner.upstream.ordered_state_copies import OrderedStateCopiesMixin
from ascend_gdn.runner.upstream.padded_prompts import PaddedPromptsMixin

__all__ = [
    "StepNPUModelRunner",
    "ascend_seams",
    "is_310p",
    "layer_cls",
    "prefill_operators",
    "refusals",
    "repair",
]


class StepNPUModelRunner(
    OrderedStateCopiesMixin, StepNPUModelRunnerMixin, PaddedPromptsMixin, NPUModelRunner
):
    """vLLM-Ascend's model runner, opening a GDN step around each metadata build."""


def is_310p() -> bool:
    supports = get_current_hardware_profile().supports(HardwareCapability.GDN_COMPATIBILITY)
    return bool(supports)


def ascend_seams() -> Seams:
    from vllm_ascend.attention.utils import (
        maybe_save_kv_layer_to_connector,
        wait_for_kv_layer_from_connector,
    )
    from vllm_ascend.distributed.kv_transfer.kv_pool.ascend_store.attention_fence import (
        record_attention_compute_start,
    )
    from vllm_ascend.ops.gdn import AscendGatedDeltaNetAttention as Layer
    from vllm_ascend.ops.gdn import _get_packed_conv_weights
    from vllm_ascend.ops.gdn_attn_builder import AscendGDNAttentionMetadataBuilder as Builder

    return common_ascend_seams() | {
        Builder.build: (
            "self common_prefix_len common_attn_metadata num_accepted_tokens "
            "num_decode_draft_tokens_cpu fast_build num_actual_reqs"
        ),
        NPUModelRunner._sync_num_accepted_tokens: "self num_reqs has_prev_mapping",
        Layer._probe_fused_chunk: "",
        _get_packed_conv_weights: "layer",
        wait_for_kv_layer_from_connector: "layer_name",
        maybe_save_kv_layer_to_connector: "layer_name kv_cache_layer",
        record_attention_compute_start: "",
    }


def refusals(vllm_config: VllmConfig, has_gdn_layers: bool) -> tuple[Refusal, ...]:
    ranks = vllm_config.parallel_config.decode_context_parallel_size
    return (
        (
            has_gdn_layers and ranks > 1,
            f"got --decode-context-parallel-size {ranks} on vLLM-Ascend 0.30.0rc2, expected 1: "
            "that was not run there; leave it out",
        ),
    )


def repair(vllm_config: VllmConfig) -> None:
    """Nothing: ascend_config.py settles the all-to-all backend, whatever the worker."""


def layer_cls(vllm_config: VllmConfig) -> type[Any]:
    from ascend_gdn.fla.ascend.fla_npu import FlaNpuLayer

    return FlaNpuLayer


def prefill_operators() -> str:
    from ascend_gdn.fla.ascend.fused_chunk import FlaNpuChunkGatedDeltaRule, fused_chunk_rule

    rule = fused_chunk_rule(1.0)
    if rule is None:
        return f"vllm-ascend {version('vllm-ascend')}"
    return "fla_npu" if isinstance(rule, FlaNpuChunkGatedDeltaRule) else "CANN"
