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

from . import checks, triton_small
from .launches import counted
from .stacks import installed_stack
from .stacks.common import ATTENTION_SCHEMA, NAMESPACE, NOT_EMULATED, Stack, name_of
from .torch_npu_stand_in import add_module, install_modules
from .wide import widen

NOTHING: Mapping[str, Callable[..., Any]] = MappingProxyType({})


def install(instead: Mapping[str, Callable[..., Any]] = NOTHING) -> None:
    """Install it all.

    Args:
        instead: Taken, by name, instead of emulated operators and functions.
    """
    # These look for torch_npu, and take its path once it is there.
    for name in ("modeling_flash_attention_utils", "processing_utils"):
        importlib.import_module(f"transformers.{name}")

    stack = installed_stack()
    types = {name: object() for name in stack.torch_npu_types}
    install_modules(stack.torch_npu, types | stack.torch_npu_operators, stack.atb_operators)
    for name, functions in stack.modules.items():
        add_module(name, **{each: instead.get(each, own) for each, own in functions.items()})
    register_operators(stack, instead)
    os.environ["VLLM_PLUGINS"] = "none"
    install_platform()
    for name, function in stack.triton_functions:
        counted_function = counted(function.__name__, function)
        replace(name, function.__name__, instead.get(function.__name__, counted_function))
    for name, kernel, launch in stack.triton_kernels:
        replace(name, kernel, triton_small.Kernel(instead.get(kernel, counted(kernel, launch))))
    install_sharded_slots(stack.sharded_slots)
    if checks.WIDE:
        for name in stack.in_16_bits:
            widen(importlib.import_module(name))


def replace(module_name: str, name: str, stand_in: object) -> None:
    """Replace what ``module_name`` has under ``name``, wherever vLLM or vllm-ascend has it."""
    original = vars(importlib.import_module(module_name))[name]
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] in ("vllm", "vllm_ascend"):
            held = [each for each, value in vars(module).items() if value is original]
            for each in held:
                setattr(module, each, stand_in)


def register_operators(stack: Stack, instead: Mapping[str, Callable[..., Any]]) -> None:
    """``torch.ops._C_ascend``, and what is called as ``torch.ops.npu``, on the CPU."""
    for schema in (*stack.operators, *NOT_EMULATED):
        name = f"{NAMESPACE}::{name_of(schema)}"
        torch.library.define(name, schema.removeprefix(name_of(schema)))
        if schema in stack.operators:
            own = instead.get(name_of(schema)) or stack.operators[schema]
            torch.library.impl(name, "CPU")(own)
    attention = name_of(ATTENTION_SCHEMA)
    torch.library.define(f"npu::{attention}", ATTENTION_SCHEMA.removeprefix(attention))
    torch.library.impl(f"npu::{attention}", "CPU")(stack.torch_npu_operators[attention])


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


def install_sharded_slots(method: str) -> None:
    """Have slots that are shared out to context-parallel ranks reach the "device".

    vllm-ascend's worker/block_table.py (0.23.0.post1, 0.30.0rc2) computes them on the device of its
    arguments, and takes those of the CPU for host copies, which it then leaves on the host.
    """
    from vllm_ascend.worker.block_table import BlockTable

    on_the_host = vars(BlockTable)[method]

    def on_the_device(
        table: BlockTable, req_indices: torch.Tensor, positions: torch.Tensor
    ) -> None:
        table.block_table.cpu, host = table.block_table.gpu, table.block_table.cpu
        try:
            on_the_host(table, req_indices, positions)
        finally:
            table.block_table.cpu = host
        table.slot_mapping.copy_to_gpu(len(req_indices))

    setattr(BlockTable, method, on_the_device)
