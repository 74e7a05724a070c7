# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend 0.23.0.post1 over vLLM 0.23.0."""

from __future__ import annotations

from .. import (
    ops_attention,
    ops_conv,
    ops_embedding,
    ops_moe,
    ops_recurrent,
    triton_chunk,
    triton_context_parallel,
    triton_small,
)
from . import common

FLA = common.FLA

STACK = common.Stack(
    torch_npu="2.10.0.post4",
    operators={
        **common.OPERATORS,
        **common.chunk_operators(""),
        "npu_recurrent_gated_delta_rule(Tensor query, Tensor key, Tensor value, Tensor(a!) state, "
        "*, Tensor? beta=None, float? scale=None, Tensor? actual_seq_lengths=None, "
        "Tensor? ssm_state_indices=None, Tensor? num_accepted_tokens=None, Tensor? g=None, "
        "Tensor? gk=None) -> Tensor": ops_recurrent.npu_recurrent_gated_delta_rule,
        "npu_causal_conv1d_custom(Tensor output, Tensor x, Tensor weight, Tensor conv_state, "
        "Tensor? bias_opt, Tensor? query_start_loc_opt, Tensor? cache_indices_opt, "
        "Tensor? initial_state_mode_opt, Tensor? num_accepted_tokens_opt, int activation_mode, "
        "int pad_slot_id, int run_mode) -> (Tensor output)": ops_conv.npu_causal_conv1d_custom,
        "npu_fused_gdn_gating(Tensor A_log, Tensor a, Tensor b, Tensor dt_bias, float beta=1.0, "
        "float threshold=20.0) -> (Tensor g, Tensor beta_output)": (
            ops_recurrent.npu_fused_gdn_gating
        ),
        "npu_moe_init_routing_custom(Tensor x, Tensor expert_idx, *, Tensor? scale=None, "
        "Tensor? offset=None, int active_num=-1, int expert_capacity=-1, int expert_num=-1, "
        "int drop_pad_mode=0, int expert_tokens_num_type=0, bool expert_tokens_num_flag=False, "
        "int quant_mode=0, int[2] active_expert_range=[], int row_idx_type=0) -> "
        "(Tensor, Tensor, Tensor, Tensor)": ops_moe.npu_moe_init_routing_custom,
        "get_masked_input_and_mask(Tensor input, int org_vocab_start_index, "
        "int org_vocab_end_index, int num_org_vocab_padding, int added_vocab_start_index, "
        "int added_vocab_end_index) -> (Tensor masked_input, Tensor mask)": (
            ops_embedding.get_masked_input_and_mask
        ),
    },
    torch_npu_operators={
        **common.TORCH_NPU_OPERATORS,
        "_npu_reshape_and_cache": ops_attention._npu_reshape_and_cache,
    },
    torch_npu_types=(),
    atb_operators={"npu_paged_cache_load": ops_attention.npu_paged_cache_load},
    triton_functions=(
        *common.TRITON_FUNCTIONS,
        (f"{FLA}.chunk_delta_h", triton_context_parallel.chunk_gated_delta_rule_fwd_h),
        (f"{FLA}.chunk_delta_hupdate", triton_context_parallel.chunk_gated_delta_rule_fwd_hupdate),
        (f"{FLA}.chunk_scaled_dot_kkt", triton_chunk.chunk_scaled_dot_kkt_fwd),
        (f"{FLA}.cumsum", triton_chunk.chunk_local_cumsum),
        (f"{FLA}.solve_tril", triton_chunk.solve_tril),
        (f"{FLA}.wy_fast", triton_chunk.recompute_w_u_fwd),
        ("vllm.model_executor.layers.fla.ops.l2norm", triton_small.l2norm_fwd),
    ),
    triton_kernels=(
        *common.TRITON_KERNELS,
        (
            "vllm.v1.worker.block_table",
            "_compute_slot_mapping_kernel",
            triton_small.compute_slot_mapping,
        ),
    ),
    in_16_bits=(f"{FLA}.chunk",),
    modules={},
    sharded_slots="_compute_pcp_dcp_slot_mapping",
)
