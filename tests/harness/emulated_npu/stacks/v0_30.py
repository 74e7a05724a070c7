# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend 0.30.0rc2 over vLLM 0.30.0.

Convolution and recurrence come from ``fla_npu``. A fused prefill is there too, unless the variable
``EMULATED_NPU_PREFILL`` says otherwise: ``cann`` for CANN's, ``staged`` for neither.
"""

from __future__ import annotations

import os

from .. import (
    fla_npu_chunk,
    fla_npu_conv,
    fla_npu_recurrent,
    ops_attention,
    ops_moe,
    ops_norm_rotary,
    triton_chunk,
    triton_small,
    triton_v0_30,
)
from . import common

FLA = common.FLA
PREFILL = os.environ.get("EMULATED_NPU_PREFILL", "fused")
assert PREFILL in ("fused", "cann", "staged"), PREFILL

FLA_NPU = {
    function.__name__: function
    for function in (
        fla_npu_conv.causal_conv1d_fn,
        fla_npu_conv.causal_conv1d_update,
        fla_npu_recurrent.recurrent_gated_delta_rule,
    )
}
FUSED = {"chunk_gated_delta_rule_fwd": fla_npu_chunk.chunk_gated_delta_rule_fwd}
CANN = {"npu_chunk_gated_delta_rule": fla_npu_chunk.npu_chunk_gated_delta_rule}

STACK = common.Stack(
    torch_npu="2.10.0.post4",
    operators={**common.OPERATORS, **common.chunk_operators("_vllm")},
    torch_npu_operators={
        **common.TORCH_NPU_OPERATORS,
        "npu_scatter_pa_kv_cache": ops_attention.npu_scatter_pa_kv_cache,
        "npu_mrope": ops_norm_rotary.npu_mrope,
        "npu_moe_init_routing_v2": ops_moe.npu_moe_init_routing_v2,
        **(CANN if PREFILL == "cann" else {}),
    },
    torch_npu_types=("float4_e2m1fn_x2", "float8_e8m0fnu", "hifloat8"),
    atb_operators={},
    triton_functions=(
        *common.TRITON_FUNCTIONS,
        (f"{FLA}.chunk_delta_hupdate", triton_v0_30.chunk_gated_delta_rule_fwd_hupdate),
        (f"{FLA}.chunk_scaled_dot_kkt", triton_v0_30.chunk_scaled_dot_kkt_fwd),
        (f"{FLA}.cumsum", triton_chunk.chunk_local_cumsum),
        (f"{FLA}.solve_tril", triton_chunk.solve_tril),
        (f"{FLA}.wy_fast", triton_v0_30.recompute_w_u_fwd),
        ("vllm.third_party.flash_linear_attention.ops.l2norm", triton_small.l2norm_fwd),
        (
            "vllm_ascend.ops.triton.compute_slot_mapping",
            triton_v0_30.compute_slot_mapping_fused_groups,
        ),
    ),
    triton_kernels=(
        *common.TRITON_KERNELS,
        (
            "vllm_ascend.ops.triton.compute_slot_mapping",
            "_compute_slot_mapping_kernel",
            triton_v0_30.compute_slot_mapping,
        ),
        (
            "vllm_ascend.ops.triton.fused_gdn_gating",
            "fused_gdn_gating_kernel",
            triton_v0_30.fused_gdn_gating,
        ),
        (
            "vllm_ascend.ops.triton.mamba.state_index",
            "_gather_ssm_states_kernel",
            triton_v0_30.gather_ssm_states,
        ),
        (
            "vllm_ascend.ops.triton.mamba.state_index",
            "_scatter_ssm_states_kernel",
            triton_v0_30.scatter_ssm_states,
        ),
    ),
    in_16_bits=(f"{FLA}.chunk",),
    modules={
        "fla_npu": {},
        "fla_npu.ops": {},
        "fla_npu.ops.ascendc": FLA_NPU | (FUSED if PREFILL == "fused" else {}),
    },
    sharded_slots="_compute_dcp_slot_mapping",
)
