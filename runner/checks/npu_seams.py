# SPDX-License-Identifier: Apache-2.0
"""The start-up check of vLLM-Ascend: the seams of it that we build on."""

from __future__ import annotations

from ascend_gdn.runner.checks.seams import Seams, shared_seams


def common_ascend_seams() -> Seams:
    """The seams that the NPU worker overrides or calls, the same in all versions."""
    from vllm_ascend.device.device_op import DeviceOperator
    from vllm_ascend.ops.gdn import AscendGatedDeltaNetAttention as Layer
    from vllm_ascend.ops.gdn_attn_builder import AscendGDNAttentionMetadataBuilder as Builder
    from vllm_ascend.ops.triton.fla.chunk_scaled_dot_kkt import chunk_scaled_dot_kkt_fwd as kkt
    from vllm_ascend.ops.triton.fla.cumsum import chunk_local_cumsum
    from vllm_ascend.ops.triton.fla.l2norm import l2norm_fwd
    from vllm_ascend.ops.triton.fla.solve_tril import solve_tril
    from vllm_ascend.ops.triton.fla.utils import clear_ssm_states
    from vllm_ascend.ops.triton.fla.wy_fast import recompute_w_u_fwd
    from vllm_ascend.worker.model_runner_v1 import NPUModelRunner as Runner
    from vllm_ascend.worker.worker import NPUWorker as Worker

    return shared_seams(Layer, Builder, Runner) | {
        Worker._init_device: "self",
        Worker.init_device: "self",
        Runner.initialize_attn_backend: "self kv_cache_config",
        Runner._dummy_run: "self num_tokens with_prefill",
        Runner._model_forward: "self num_tokens_padded",
        Runner.synchronize_input_prep: "self",
        DeviceOperator.fused_gdn_gating: "A_log a b dt_bias",
        l2norm_fwd: "x",
        clear_ssm_states: "ssm_states has_initial_state",
        chunk_local_cumsum: "g chunk_size",
        kkt: "k beta g_cumsum cu_seqlens chunk_indices chunk_size output_dtype",
        solve_tril: "A cu_seqlens chunk_indices_large_block chunk_indices_bt output_dtype",
        recompute_w_u_fwd: "k v beta g_cumsum A cu_seqlens chunk_indices",
    }
