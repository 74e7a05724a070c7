# SPDX-License-Identifier: Apache-2.0
"""The module ``torch_npu``, and the others that vllm-ascend imports and this machine lacks."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Callable, Mapping

import torch

from .device import NotEmulated, make_npu_module, pinned_copy, to_emulated_device


class _Module(types.ModuleType):
    """A module that names what it lacks; ``hasattr`` and ``find_spec`` work on it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> object:
        raise AttributeError(f"{self.__name__}.{name} is not emulated (tests/emulation)")


def add_module(name: str, **content: object) -> types.ModuleType:
    module = _Module(name)
    vars(module).update(content)
    parent, _, leaf = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], leaf, module)
    sys.modules[name] = module
    return module


class _ProcessGroupHCCL:
    class Options:
        """The options of a group of a backend that is not there."""

        def __init__(self) -> None:
            self.hccl_config: dict[str, object] = {}


class _TransferEngine:
    def __init__(self) -> None:
        raise NotImplementedError("mooncake's TransferEngine is not emulated (tests/emulation)")


def _no_memcpy(*arguments: object) -> None:
    raise NotImplementedError("acl.rt.memcpy is not emulated (tests/emulation)")


def install_modules(
    version: str,
    operators: Mapping[str, object],
    atb: Mapping[str, Callable[..., object]],
) -> None:
    """Put the modules into ``sys.modules``, with ``operators`` in ``torch_npu``; before vLLM.

    ``atb`` are those of ``torch_npu.atb``.
    """
    npu = make_npu_module()
    torch.utils.rename_privateuse1_backend("npu")
    torch.npu = npu
    torch.Tensor.npu = to_emulated_device
    torch.Tensor.pin_memory = pinned_copy
    torch._C._get_accelerator = lambda check=None: torch.device("cpu")  # of a barrier
    torch.accelerator.synchronize = npu.synchronize
    torch.accelerator.empty_cache = npu.empty_cache
    torch.version.cann = None
    torch.distributed.is_hccl_available = lambda: False
    sys.modules["torch.npu"] = npu

    add_module("torch_npu", npu=npu, __version__=version, **operators)
    add_module("torch_npu.npu", **vars(npu))
    sys.modules["torch_npu"].npu = npu
    add_module("torch_npu.atb", **atb)
    add_module("torch_npu._C", _NPUTaskGroupHandle=NotEmulated)
    add_module("torch_npu._C._distributed_c10d", ProcessGroupHCCL=_ProcessGroupHCCL)
    add_module("torch_npu.profiler")
    add_module("torch_npu.profiler.dynamic_profile")
    add_module("torch_npu._inductor")
    add_module("torch_npu.op_plugin")
    add_module("torch_npu.op_plugin.atb")
    add_module("torch_npu.op_plugin.atb._atb_ops", _register_atb_extensions=lambda: None)
    add_module("acl")
    add_module("acl.rt", memcpy=_no_memcpy)
    add_module("mooncake")
    add_module("mooncake.engine", TransferEngine=_TransferEngine)
    # vllm-ascend's extension: with it there, its code takes the operators of torch.ops._C_ascend.
    sys.modules["vllm_ascend.vllm_ascend_C"] = _Module("vllm_ascend.vllm_ascend_C")
