# SPDX-License-Identifier: Apache-2.0
"""``torch.npu`` without a device: streams and events that do nothing, and 32 GiB of memory."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator

import torch

MEMORY = 32 * 2**30


class Stream:
    """All work of this device is done when it is asked for: nothing to wait for."""

    def __init__(self, device: object = None, **_: object) -> None:
        self.device = device

    def synchronize(self) -> None: ...

    def wait_stream(self, stream: object) -> None: ...

    def wait_event(self, event: object) -> None: ...

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def query(self) -> bool:
        return True


class Event:
    def __init__(self, **_: object) -> None: ...

    def record(self, stream: object = None) -> None: ...

    def wait(self, stream: object = None) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: object) -> float:
        return 0.0


class NotEmulated:
    """What annotations name, and nothing may make: graphs of operators, memory pools."""

    def __init__(self, *_: object, **__: object) -> None:
        raise NotImplementedError("graphs and memory pools are not emulated (tests/emulation)")


@contextlib.contextmanager
def _stream(stream: object) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _device(device: object) -> Iterator[None]:
    yield


def make_npu_module() -> types.ModuleType:
    """A module to stand for ``torch.npu``."""
    npu = types.ModuleType("torch.npu")
    npu.Stream, npu.Event, npu.stream, npu.device = Stream, Event, _stream, _device
    only_stream = Stream()
    npu.current_stream = npu.default_stream = lambda device=None: only_stream
    npu.set_stream = npu.set_device = npu.set_compile_mode = lambda *args, **kwargs: None
    npu.synchronize = npu.empty_cache = npu.reset_peak_memory_stats = lambda device=None: None
    npu.is_available = lambda: True
    npu.is_current_stream_capturing = lambda: False
    npu.device_count = lambda: 8
    npu.current_device = lambda: "cpu"  # an index would mean the backend "npu"
    npu.get_device_name = lambda device=0: "emulated Ascend 910B1"
    npu.get_soc_version = lambda: 220
    npu.mem_get_info = lambda device=None: (MEMORY, MEMORY)
    npu.memory_stats = lambda device=None: {"allocated_bytes.all.peak": 0}
    npu.memory_reserved = npu.memory_allocated = npu.max_memory_allocated = lambda device=None: 0
    npu.NPUGraph = npu.ExternalEvent = NotEmulated
    npu.memory = types.SimpleNamespace(NPUPluggableAllocator=NotEmulated)
    npu.config = types.SimpleNamespace(allow_internal_format=False)
    npu.manual_seed = npu.manual_seed_all = lambda seed: None
    return npu


def to_emulated_device(tensor: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    """``Tensor.npu()``."""
    return tensor


def pinned_copy(tensor: torch.Tensor, device: object = None) -> torch.Tensor:
    """``Tensor.pin_memory()``: a copy, as there."""
    return tensor.clone()
