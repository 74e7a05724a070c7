# SPDX-License-Identifier: Apache-2.0
"""The start-up check on CUDA: vLLM's Triton kernels, which our layer launches itself."""

from __future__ import annotations

from ascend_gdn.runner.checks.seams import Seams


def gpu_seams() -> Seams:
    """The kernels of vLLM 0.23.0 that the CUDA layer launches, with all their parameters but those
    that it passes by name."""
    from vllm.model_executor.layers.fla.ops import (
        chunk_delta_h,
        chunk_o,
        chunk_scaled_dot_kkt,
        cumsum,
        fused_gdn_prefill_post_conv,
        solve_tril,
        wy_fast,
    )
    from vllm.model_executor.layers.mamba.ops import causal_conv1d

    tuned = {
        cumsum.chunk_local_cumsum_scalar_kernel: "s o cu_seqlens chunk_indices T",
        chunk_scaled_dot_kkt.chunk_scaled_dot_kkt_fwd_kernel: (
            "k beta g A cu_seqlens chunk_indices T"
        ),
        solve_tril.merge_16x16_to_64x64_inverse_kernel: "A Ai cu_seqlens chunk_indices T",
        wy_fast.recompute_w_u_fwd_kernel: "k v beta w u A g cu_seqlens chunk_indices T",
        chunk_delta_h.chunk_gated_delta_rule_fwd_kernel_h_blockdim64: (
            "k v w v_new g gk h h0 ht cu_seqlens chunk_offsets T"
        ),
        chunk_o.chunk_fwd_kernel_o: "q k v h g o cu_seqlens chunk_indices scale T",
    }
    return {
        **{kernel.fn.fn.fn: names for kernel, names in tuned.items()},  # heuristics, autotuner, JIT
        fused_gdn_prefill_post_conv._fused_post_conv_kernel.fn: """
            mixed_qkv_ptr a_ptr b_ptr A_log_ptr dt_bias_ptr q_ptr k_ptr v_ptr g_ptr beta_ptr
            stride_x_tok stride_a_tok stride_b_tok stride_q_tok stride_k_tok stride_v_tok L""",
        causal_conv1d._causal_conv1d_fwd_kernel.fn: """
            x_ptr w_ptr bias_ptr initial_states_ptr cache_indices_ptr has_initial_states_ptr
            query_start_loc_ptr batch_ptr token_chunk_offset_ptr block_idx_first_scheduled_token
            block_idx_last_scheduled_token initial_state_idx num_computed_tokens o_ptr
            dim num_cache_lines stride_x_dim stride_x_token stride_w_dim stride_w_width
            stride_istate_seq stride_istate_dim stride_istate_token stride_cache_indices
            stride_o_dim stride_o_token stride_block_m pad_slot_id null_block_id""",
    }
