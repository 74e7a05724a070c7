# SPDX-License-Identifier: Apache-2.0
"""The start-up check of vLLM-Ascend: its version, and the seams of it that we build on."""

from __future__ import annotations

from importlib.metadata import version as installed_version

from ascend_gdn.runner.checks.seams import IncompatibleStackError, Seam

VLLM_ASCEND_VERSIONS = ("0.23.0", "0.23.0.post1")


def check_ascend_version(version: str | None = None) -> None:
    """Raise :class:`IncompatibleStackError` unless vLLM-Ascend is the pinned one.

    Args:
        version: Version to check; by default that of the installed vllm-ascend.
    """
    version = installed_version("vllm-ascend") if version is None else version
    if version.split("+")[0] not in VLLM_ASCEND_VERSIONS:
        raise IncompatibleStackError(
            f"ascend-gdn: got vllm-ascend {version}, expected {VLLM_ASCEND_VERSIONS[-1]}. Install "
            f"the pinned version: pip install 'vllm-ascend=={VLLM_ASCEND_VERSIONS[-1]}'."
        )


def ascend_seams() -> tuple[Seam, ...]:
    """The seams of vLLM-Ascend 0.23.0 that the NPU worker overrides or calls."""
    from vllm_ascend.device.device_op import DeviceOperator
    from vllm_ascend.ops.gdn import AscendGatedDeltaNetAttention as Layer
    from vllm_ascend.ops.gdn_attn_builder import AscendGDNAttentionMetadataBuilder as Builder
    from vllm_ascend.ops.triton.fla.chunk_delta_hupdate import chunk_gated_delta_rule_fwd_hupdate
    from vllm_ascend.ops.triton.fla.chunk_scaled_dot_kkt import chunk_scaled_dot_kkt_fwd
    from vllm_ascend.ops.triton.fla.cumsum import chunk_local_cumsum
    from vllm_ascend.ops.triton.fla.l2norm import l2norm_fwd
    from vllm_ascend.ops.triton.fla.solve_tril import solve_tril
    from vllm_ascend.ops.triton.fla.utils import clear_ssm_states
    from vllm_ascend.ops.triton.fla.wy_fast import recompute_w_u_fwd
    from vllm_ascend.worker.model_runner_v1 import NPUModelRunner as Runner
    from vllm_ascend.worker.pcp_utils import PCPManager
    from vllm_ascend.worker.worker import NPUWorker as Worker

    return (
        Seam(Worker._init_device, ("self",)),
        Seam(Worker.init_device, ("self",)),
        Seam(Runner.initialize_attn_backend, ("self", "kv_cache_config")),
        Seam(Runner._build_attention_metadata, ("self", "num_tokens", "num_reqs", "max_query_len")),
        Seam(Runner._dummy_run, ("self", "num_tokens", "with_prefill")),
        Seam(Runner._model_forward, ("self", "num_tokens_padded")),
        Seam(Runner.synchronize_input_prep, ("self",)),
        Seam(
            Runner._determine_batch_execution_and_padding,
            ("self", "num_tokens", "num_reqs", "num_scheduled_tokens_np"),
        ),
        Seam(
            Builder.build,
            (
                "self",
                "common_prefix_len",
                "common_attn_metadata",
                "num_accepted_tokens",
                "num_decode_draft_tokens_cpu",
                "fast_build",
            ),
        ),
        Seam(Layer._forward_core, ("self", "mixed_qkv", "b", "a", "core_attn_out")),
        Seam(DeviceOperator.fused_gdn_gating, ("A_log", "a", "b", "dt_bias")),
        Seam(l2norm_fwd, ("x",)),
        Seam(clear_ssm_states, ("ssm_states", "has_initial_state")),
        Seam(chunk_local_cumsum, ("g", "chunk_size")),
        Seam(
            chunk_scaled_dot_kkt_fwd,
            ("k", "beta", "g_cumsum", "cu_seqlens", "chunk_indices", "chunk_size", "output_dtype"),
        ),
        Seam(
            solve_tril,
            ("A", "cu_seqlens", "chunk_indices_large_block", "chunk_indices_bt", "output_dtype"),
        ),
        Seam(
            chunk_gated_delta_rule_fwd_hupdate,
            ("k", "w", "u", "g", "chunk_size", "cu_seqlens", "chunk_indices", "chunk_offsets"),
        ),
        Seam(PCPManager.init_batch_info, ("self", "num_scheduled_tokens", "num_reqs")),
        Seam(recompute_w_u_fwd, ("k", "v", "beta", "g_cumsum", "A", "cu_seqlens", "chunk_indices")),
    )
