# SPDX-License-Identifier: Apache-2.0
"""What a stack is, and what both have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import (
    ops_attention,
    ops_chunk,
    ops_moe,
    ops_norm_rotary,
    triton_small,
    triton_split_qkv,
)

Functions = Mapping[str, Callable[..., Any]]

NAMESPACE = "_C_ascend"
"""Of vllm-ascend's operators, ``torch.ops._C_ascend``."""
FLA = "vllm_ascend.ops.triton.fla"


@dataclass(frozen=True)
class Stack:
    """What a release of vllm-ascend finds on an NPU."""

    torch_npu: str
    """The version that it pins."""
    operators: Functions
    """Of its own extension: schema, as in ``csrc/torch_binding.cpp`` of its source distribution
    (the strings given to ``ops.def``, put together and with single spaces), and function."""
    torch_npu_operators: Functions
    torch_npu_types: tuple[str, ...]
    """What it names of ``torch_npu``, none of which an emulated operator takes."""
    atb_operators: Functions
    """Of ``torch_npu.atb``."""
    triton_functions: tuple[tuple[str, Callable[..., Any]], ...]
    """A module, and the function to replace in it and in those that have it from there."""
    triton_kernels: tuple[tuple[str, str, Callable[..., Any]], ...]
    """A module, the kernel's name, and what launches in its place."""
    in_16_bits: tuple[str, ...]
    """Modules that name bfloat16: see :mod:`..wide`."""
    modules: Mapping[str, Functions]
    """Further modules, and their functions."""
    sharded_slots: str
    """The method of its BlockTable for slots that ranks share out."""


OPERATORS: Functions = {
    "npu_gemma_rms_norm(Tensor x, Tensor gamma, float epsilon=1e-6) -> (Tensor y, Tensor rstd)": (
        ops_norm_rotary.npu_gemma_rms_norm
    ),
    "npu_add_rms_norm_bias(Tensor x1, Tensor x2, Tensor gamma, Tensor? beta=None, "
    "float epsilon=1e-6) -> (Tensor y, Tensor rstd, Tensor x)": (
        ops_norm_rotary.npu_add_rms_norm_bias
    ),
    "moe_gating_top_k(Tensor x, int k, int k_group, int group_count, int group_select_mode, "
    "int renorm, int norm_type, bool out_flag, float routed_scaling_factor, float eps,"
    "Tensor? bias_opt=None) -> (Tensor y, Tensor expert_idx, Tensor out)": (
        ops_moe.moe_gating_top_k
    ),
}

FWD_H = (
    "(Tensor k, Tensor w, Tensor u, Tensor? g=None, *, "
    "Tensor? gk=None, Tensor? initial_state=None, bool? output_final_state=False, "
    "int? chunk_size=None, bool? save_new_value=True, int[]? cu_seqlens=None, "
    "int[]? chunk_indices=None, bool? use_exp2=False, bool? transpose_state_layout=False) -> "
    "(Tensor h_out, Tensor v_new_out, Tensor final_state_out)"
)
FWD_O = (
    "(Tensor q, Tensor k, Tensor v, Tensor h, float scale, *, Tensor? g=None, "
    "Tensor? g_gamma=None, int[]? cu_seqlens=None, int[]? chunk_indices=None, "
    "int? chunk_size=None, bool? transpose_state_layout=False) -> Tensor"
)


def chunk_operators(suffix: str) -> Functions:
    return {
        f"chunk_gated_delta_rule_fwd_h{suffix}{FWD_H}": ops_chunk.chunk_gated_delta_rule_fwd_h,
        f"chunk_fwd_o{suffix}{FWD_O}": ops_chunk.chunk_fwd_o,
    }


NOT_EMULATED = (
    "bgmv_expand(Tensor! x, Tensor! weight, Tensor! indices, Tensor! y, int slice_offset, "
    "int slice_size) -> Tensor",
    "sgmv_expand(Tensor! x, Tensor! weight, Tensor! lora_indices, Tensor! seq_len, Tensor! y, "
    "int slice_offset, int slice_size) -> Tensor",
)
"""vllm-ascend gives these an implementation of shapes when it loads its extension."""

TORCH_NPU_OPERATORS: Functions = {
    function.__name__: function
    for function in (
        ops_norm_rotary._npu_rotary_embedding,
        ops_norm_rotary.npu_add_rms_norm,
        ops_norm_rotary.npu_rms_norm,
        ops_norm_rotary.npu_swiglu,
        ops_attention.npu_attention_update,
        ops_attention.npu_fused_infer_attention_score,
        ops_moe.npu_grouped_matmul,
        ops_moe.npu_moe_token_unpermute,
    )
}

ATTENTION_SCHEMA = (
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
    "int value_antiquant_mode=0) -> (Tensor, Tensor)"
)
"""Of ``torch_npu``, which vllm-ascend calls as ``torch.ops.npu``: from its documentation, but for
``scale``, which is what vllm-ascend (and the documentation before) names ``scale_value``."""

TRITON_FUNCTIONS = (
    (f"{FLA}.fused_qkvzba_split_reshape", triton_small.fused_qkvzba_split_reshape_cat),
    (f"{FLA}.l2norm", triton_small.l2norm_fwd),
    (f"{FLA}.utils", triton_small.clear_ssm_states),
    ("vllm_ascend.ops.triton.triton_utils", triton_split_qkv.get_vectorcore_num),
    ("vllm_ascend.ops.triton.layernorm_gated", triton_small.layer_norm_fwd_npu),
)

TRITON_KERNELS = (
    ("vllm_ascend.ops.triton.batch_memcpy", "batch_memcpy_kernel", triton_small.batch_memcpy),
    (
        "vllm_ascend.ops.triton.linearnorm.split_qkv_rmsnorm_mrope",
        "split_qkv_rmsnorm_mrope_kernel",
        triton_split_qkv.split_qkv_rmsnorm_mrope,
    ),
)


def name_of(schema: str) -> str:
    return schema.partition("(")[0]
