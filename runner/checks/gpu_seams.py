# SPDX-License-Identifier: Apache-2.0
"""The start-up check on CUDA: vLLM's Triton kernels, which ours fall back on."""

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
        solve_tril,
        wy_fast,
    )

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
    # Heuristics, autotuner, JIT.
    return {kernel.fn.fn.fn: names for kernel, names in tuned.items()}
