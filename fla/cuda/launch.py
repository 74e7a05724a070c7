# SPDX-License-Identifier: Apache-2.0
"""Launching vLLM's Triton kernels without the layers of Python above them.

A GDN layer launches eight kernels of a few microseconds each, and every prefill step runs dozens of
layers: what the host does for a launch is what a short prompt waits for. vLLM launches them through
wrappers that check, copy and recompute what the step's metadata guarantees, then through Triton's
heuristics and autotuner, which look the same configuration up each time, then through its binder,
which looks the same compiled kernel up: benchmarks/bench_cuda_launch.py.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
import triton
from triton.backends.nvidia.driver import CudaLauncher
from triton.runtime import driver
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction
from vllm.logger import init_logger

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers

Grid = tuple[int, int, int]


def current_stream(device: torch.device) -> int:
    """The current stream of ``device``, as the launchers take it."""
    return driver.active.get_current_stream(device.index)


TRITON_VERSION = "3.6."
LAUNCHER = ("self", "gridX", "gridY", "gridZ", "stream", "function", "args")


@cache
def has_known_launcher() -> bool:
    """Whether Triton's launcher of compiled kernels, which is private, is the one we know.

    Says so in the log, once, where it is not: then kernels are launched by Triton's own way.
    """
    found = tuple(inspect.signature(CudaLauncher.__call__).parameters)
    if triton.__version__.startswith(TRITON_VERSION) and found == LAUNCHER:
        return True
    logger.warning(
        "ascend-gdn: got Triton %s with a launcher of %s, expected %sx and %s: kernels are "
        "launched by Triton's own way, which takes the host some 20 us more each.",
        triton.__version__, found, TRITON_VERSION, LAUNCHER,
    )  # fmt: skip
    return False


class KernelDoesNotFitError(RuntimeError):
    """A kernel takes more shared memory, or threads, than the device has for a program.

    Args:
        kernel: Its name.
        cause: What Triton says.
        configs: How many configurations of it were tried; ``cause`` is of the least.
    """

    def __init__(self, kernel: str, cause: OutOfResources, configs: int = 1) -> None:
        self.kernel, self.cause = kernel, cause
        super().__init__(
            f"ascend-gdn: the Triton kernel {kernel} does not fit this device: got {cause.limit} "
            f"of {cause.name}, expected {cause.required} for the least of {configs} "
            "configuration(s). Take a device with more; vLLM's own worker runs the same kernel."
        )


class BoundKernel:
    """A Triton kernel for arguments that always have the same types; numbers below 2**31.

    It is compiled by Triton as ever, and found again by just what Triton 3.6 compiles for: whether
    an address or a number is divisible by 16, whether a number is 1, what is missing.

    Args:
        kernel: Without heuristics and tuner.
        constants: Compile-time arguments and options, by name, but for those passed in a launch.
    """

    def __init__(self, kernel: JITFunction, **constants: Any) -> None:
        self._kernel = kernel
        self._constants = constants
        self._compiled: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self._pointers: list[int] | None = None
        self._direct = has_known_launcher()

    def __call__(self, grid: Grid, stream: int, *args: Any) -> None:
        """Launch.

        Args:
            grid: Programs.
            stream: The current stream.
            args: The kernel's first, in its order.

        Raises:
            KernelDoesNotFitError: It is compiled for the first time, and does not fit the device.
        """
        if not self._direct:
            self._launch_by_triton(grid, args)
            return
        if self._pointers is None:
            self._classify(args)
        assert self._pointers is not None
        values = list(args)
        key: list[Any] = [values[i] for i in self._compile_time]
        for i in self._pointers:
            tensor = values[i]
            if tensor is None:
                key.append(None)
            else:
                address = values[i] = tensor.data_ptr()
                key.append(address & 15 == 0)
        for i in self._integers:
            number = values[i]
            key.append(-1 if number == 1 else number & 15 == 0)
        found = self._compiled.get(tuple(key))
        if found is not None:
            launch, function, metadata, rest = found
            # As CompiledKernel.__getitem__ (triton/compiler/compiler.py, 3.6) launches it, without
            # the hooks of Triton's own profiler.
            launch(*grid, stream, function, metadata, None, None, None, *values, *rest)
            return
        compiled = self._launch_by_triton(grid, args)
        rest = [self._constants[param.name] for param in self._kernel.params[len(args) :]]
        self._compiled[tuple(key)] = (
            compiled.run,
            compiled.function,
            compiled.packed_metadata,
            rest,
        )

    def _launch_by_triton(self, grid: Grid, args: tuple[Any, ...]) -> Any:
        try:
            return self._kernel.run(*args, grid=grid, warmup=False, **self._constants)
        except OutOfResources as error:
            raise KernelDoesNotFitError(self._kernel.__name__, error) from error

    def _classify(self, args: tuple[Any, ...]) -> None:
        self._compile_time: list[int] = []
        self._integers: list[int] = []
        self._pointers = []
        for i, (param, arg) in enumerate(zip(self._kernel.params, args, strict=False)):
            if param.is_constexpr:
                self._compile_time.append(i)
            elif arg is None or isinstance(arg, torch.Tensor):
                self._pointers.append(i)
            elif isinstance(arg, int) and not param.do_not_specialize:
                self._integers.append(i)
