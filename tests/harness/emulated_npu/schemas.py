# SPDX-License-Identifier: Apache-2.0
"""The schemas of vllm-ascend's operators, ``torch.ops._C_ascend``.

From ``csrc/torch_binding.cpp`` of vllm-ascend 0.23.0.post1's source distribution: the strings given
to ``ops.def``, put together and with single spaces.
"""

from __future__ import annotations

NAMESPACE = "_C_ascend"

SCHEMAS = (
    "npu_gemma_rms_norm(Tensor x, Tensor gamma, float epsilon=1e-6) -> (Tensor y, Tensor rstd)",
    "npu_add_rms_norm_bias(Tensor x1, Tensor x2, Tensor gamma, Tensor? beta=None, "
    "float epsilon=1e-6) -> (Tensor y, Tensor rstd, Tensor x)",
    "npu_recurrent_gated_delta_rule(Tensor query, Tensor key, Tensor value, Tensor(a!) state, *, "
    "Tensor? beta=None, float? scale=None, Tensor? actual_seq_lengths=None, "
    "Tensor? ssm_state_indices=None, Tensor? num_accepted_tokens=None, Tensor? g=None, "
    "Tensor? gk=None) -> Tensor",
    "npu_causal_conv1d_custom(Tensor output, Tensor x, Tensor weight, Tensor conv_state, "
    "Tensor? bias_opt, Tensor? query_start_loc_opt, Tensor? cache_indices_opt, "
    "Tensor? initial_state_mode_opt, Tensor? num_accepted_tokens_opt, int activation_mode, "
    "int pad_slot_id, int run_mode) -> (Tensor output)",
    "npu_fused_gdn_gating(Tensor A_log, Tensor a, Tensor b, Tensor dt_bias, float beta=1.0, "
    "float threshold=20.0) -> (Tensor g, Tensor beta_output)",
    "chunk_gated_delta_rule_fwd_h(Tensor k, Tensor w, Tensor u, Tensor? g=None, *, "
    "Tensor? gk=None, Tensor? initial_state=None, bool? output_final_state=False, "
    "int? chunk_size=None, bool? save_new_value=True, int[]? cu_seqlens=None, "
    "int[]? chunk_indices=None, bool? use_exp2=False, bool? transpose_state_layout=False) -> "
    "(Tensor h_out, Tensor v_new_out, Tensor final_state_out)",
    "chunk_fwd_o(Tensor q, Tensor k, Tensor v, Tensor h, float scale, *, Tensor? g=None, "
    "Tensor? g_gamma=None, int[]? cu_seqlens=None, int[]? chunk_indices=None, "
    "int? chunk_size=None, bool? transpose_state_layout=False) -> Tensor",
    "moe_gating_top_k(Tensor x, int k, int k_group, int group_count, int group_select_mode, "
    "int renorm, int norm_type, bool out_flag, float routed_scaling_factor, float eps,"
    "Tensor? bias_opt=None) -> (Tensor y, Tensor expert_idx, Tensor out)",
    "npu_moe_init_routing_custom(Tensor x, Tensor expert_idx, *, Tensor? scale=None, "
    "Tensor? offset=None, int active_num=-1, int expert_capacity=-1, int expert_num=-1, "
    "int drop_pad_mode=0, int expert_tokens_num_type=0, bool expert_tokens_num_flag=False, "
    "int quant_mode=0, int[2] active_expert_range=[], int row_idx_type=0) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
    "get_masked_input_and_mask(Tensor input, int org_vocab_start_index, "
    "int org_vocab_end_index, int num_org_vocab_padding, int added_vocab_start_index, "
    "int added_vocab_end_index) -> (Tensor masked_input, Tensor mask)",
)

# vllm-ascend gives these an implementation of shapes when it loads its extension.
NOT_EMULATED = (
    "bgmv_expand(Tensor! x, Tensor! weight, Tensor! indices, Tensor! y, int slice_offset, "
    "int slice_size) -> Tensor",
    "sgmv_expand(Tensor! x, Tensor! weight, Tensor! lora_indices, Tensor! seq_len, Tensor! y, "
    "int slice_offset, int slice_size) -> Tensor",
)

TORCH_NPU_SCHEMAS = (
    "npu_fused_infer_attention_score(Tensor query, Tensor key, Tensor value, *, "
    "Tensor? pse_shift=None, Tensor? atten_mask=None, SymInt[]? actual_seq_lengths=None, "
    "SymInt[]? actual_seq_lengths_kv=None, Tensor? dequant_scale1=None, "
    "Tensor? quant_scale1=None, Tensor? dequant_scale2=None, Tensor? quant_scale2=None, "
    "Tensor? quant_offset2=None, Tensor? antiquant_scale=None, Tensor? antiquant_offset=None, "
    "Tensor? block_table=None, Tensor? query_padding_size=None, Tensor? kv_padding_size=None, "
    "Tensor? key_antiquant_scale=None, Tensor? key_antiquant_offset=None, "
    "Tensor? value_antiquant_scale=None, Tensor? value_antiquant_offset=None, "
    "Tensor? key_shared_prefix=None, Tensor? value_shared_prefix=None, "
    "Tensor? actual_shared_prefix_len=None, int num_heads=1, float scale=1.0, "
    "int pre_tokens=2147483647, int next_tokens=2147483647, str input_layout='BSH', "
    "int num_key_value_heads=0, int sparse_mode=0, int inner_precise=0, int block_size=0, "
    "int antiquant_mode=0, bool softmax_lse_flag=False, int key_antiquant_mode=0, "
    "int value_antiquant_mode=0) -> (Tensor, Tensor)",
)
"""Those of ``torch_npu`` that vllm-ascend calls as ``torch.ops.npu``: from its documentation, but
for ``scale``, which is what vllm-ascend (and the documentation before) names ``scale_value``."""


def name_of(schema: str) -> str:
    return schema.partition("(")[0]
