# SPDX-License-Identifier: Apache-2.0
"""Put the emulated NPU in place: once in a process, before vLLM is imported."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from . import (
    checks,
    ops_attention,
    ops_chunk,
    ops_conv,
    ops_embedding,
    ops_moe,
    ops_norm_rotary,
    ops_recurrent,
    triton_chunk,
    triton_context_parallel,
    triton_small,
    triton_split_qkv,
)
from .launches import counted
from .schemas import NAMESPACE, NOT_EMULATED, SCHEMAS, TORCH_NPU_SCHEMAS, name_of
from .torch_npu_stand_in import install_modules
from .wide import widen

NOTHING: Mapping[str, Callable[..., Any]] = MappingProxyType({})

OPERATOR_MODULES = (
    ops_attention,
    ops_chunk,
    ops_conv,
    ops_embedding,
    ops_moe,
    ops_norm_rotary,
    ops_recurrent,
)

TORCH_NPU_OPERATORS = (
    "_npu_reshape_and_cache",
    "_npu_rotary_embedding",
    "npu_add_rms_norm",
    "npu_attention_update",
    "npu_fused_infer_attention_score",
    "npu_grouped_matmul",
    "npu_moe_token_unpermute",
    "npu_rms_norm",
    "npu_swiglu",
)

ATB_OPERATORS = ("npu_paged_cache_load",)
"""Of ``torch_npu.atb``."""

FLA = "vllm_ascend.ops.triton.fla"
TRITON_FUNCTIONS = {
    f"{FLA}.chunk_delta_h": triton_context_parallel.chunk_gated_delta_rule_fwd_h,
    f"{FLA}.chunk_delta_hupdate": triton_context_parallel.chunk_gated_delta_rule_fwd_hupdate,
    f"{FLA}.chunk_scaled_dot_kkt": triton_chunk.chunk_scaled_dot_kkt_fwd,
    f"{FLA}.cumsum": triton_chunk.chunk_local_cumsum,
    f"{FLA}.fused_qkvzba_split_reshape": triton_small.fused_qkvzba_split_reshape_cat,
    f"{FLA}.l2norm": triton_small.l2norm_fwd,
    f"{FLA}.solve_tril": triton_chunk.solve_tril,
    f"{FLA}.utils": triton_small.clear_ssm_states,
    f"{FLA}.wy_fast": triton_chunk.recompute_w_u_fwd,
    "vllm_ascend.ops.triton.triton_utils": triton_split_qkv.get_vectorcore_num,
    "vllm_ascend.ops.triton.layernorm_gated": triton_small.layer_norm_fwd_npu,
    "vllm.model_executor.layers.fla.ops.l2norm": triton_small.l2norm_fwd,
}
"""The function to replace in each module, and in those that have it from there."""

TRITON_KERNELS = {
    "vllm_ascend.ops.triton.batch_memcpy": ("batch_memcpy_kernel", triton_small.batch_memcpy),
    "vllm_ascend.ops.triton.linearnorm.split_qkv_rmsnorm_mrope": (
        "split_qkv_rmsnorm_mrope_kernel",
        triton_split_qkv.split_qkv_rmsnorm_mrope,
    ),
    "vllm.v1.worker.block_table": (
        "_compute_slot_mapping_kernel",
        triton_small.compute_slot_mapping,
    ),
}

IN_16_BITS = (f"{FLA}.chunk",)
"""Modules that name bfloat16: see :mod:`.wide`."""


def install(instead: Mapping[str, Callable[..., Any]] = NOTHING) -> None:
    """Install it all.

    Args:
        instead: Taken, by name, instead of emulated operators and functions.
    """
    # These look for torch_npu, and take its path once it is there.
    for name in ("modeling_flash_attention_utils", "processing_utils"):
        importlib.import_module(f"transformers.{name}")

    install_modules(
        {name: operator(name) for name in TORCH_NPU_OPERATORS},
        {name: operator(name) for name in ATB_OPERATORS},
    )
    register_operators(instead)
    os.environ["VLLM_PLUGINS"] = "none"
    install_platform()
    for name, function in TRITON_FUNCTIONS.items():
        counted_function = counted(function.__name__, function)
        replace(name, function.__name__, instead.get(function.__name__, counted_function))
    for name, (kernel, launch) in TRITON_KERNELS.items():
        replace(name, kernel, triton_small.Kernel(counted(kernel, launch)))
    install_sharded_slots()
    if checks.WIDE:
        for name in IN_16_BITS:
            widen(importlib.import_module(name))


def operator(name: str) -> object:
    """The emulated operator of that name."""
    (found,) = [vars(module)[name] for module in OPERATOR_MODULES if name in vars(module)]
    return found


def replace(module_name: str, name: str, stand_in: object) -> None:
    """Replace what ``module_name`` has under ``name``, wherever vLLM or vllm-ascend has it."""
    original = vars(importlib.import_module(module_name))[name]
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] in ("vllm", "vllm_ascend"):
            held = [each for each, value in vars(module).items() if value is original]
            for each in held:
                setattr(module, each, stand_in)


def register_operators(instead: Mapping[str, Callable[..., Any]]) -> None:
    """``torch.ops._C_ascend``, and what is called as ``torch.ops.npu``, on the CPU."""
    for schema in SCHEMAS + NOT_EMULATED:
        name = f"{NAMESPACE}::{name_of(schema)}"
        torch.library.define(name, schema.removeprefix(name_of(schema)))
        if schema in SCHEMAS:
            own = instead.get(name_of(schema)) or operator(name_of(schema))
            torch.library.impl(name, "CPU")(own)
    for schema in TORCH_NPU_SCHEMAS:
        name = f"npu::{name_of(schema)}"
        torch.library.define(name, schema.removeprefix(name_of(schema)))
        torch.library.impl(name, "CPU")(operator(name_of(schema)))


def install_platform() -> None:
    """Make vllm-ascend's platform, on the CPU, the one that vLLM runs on."""
    import vllm.platforms
    from vllm.utils import torch_utils

    from .platform import EmulatedPlatform

    vllm.platforms.current_platform = EmulatedPlatform()
    register = torch_utils.direct_register_custom_op

    def register_on_cpu(*args: object, **kwargs: object) -> None:
        if kwargs.get("dispatch_key") == "PrivateUse1":
            kwargs["dispatch_key"] = "CPU"
        register(*args, **kwargs)

    torch_utils.direct_register_custom_op = register_on_cpu


def install_sharded_slots() -> None:
    """Have slots that are shared out to context-parallel ranks reach the "device".

    vllm-ascend's worker/block_table.py (0.23.0.post1) computes them on the device of its arguments,
    and takes those of the CPU for host copies, which it then leaves on the host.
    """
    from vllm_ascend.worker.block_table import BlockTable

    on_the_host = BlockTable._compute_pcp_dcp_slot_mapping

    def on_the_device(
        table: BlockTable, req_indices: torch.Tensor, positions: torch.Tensor
    ) -> None:
        table.block_table.cpu, host = table.block_table.gpu, table.block_table.cpu
        try:
            on_the_host(table, req_indices, positions)
        finally:
            table.block_table.cpu = host
        table.slot_mapping.copy_to_gpu(len(req_indices))

    BlockTable._compute_pcp_dcp_slot_mapping = on_the_device
