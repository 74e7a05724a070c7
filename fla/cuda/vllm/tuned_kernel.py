# SPDX-License-Identifier: Apache-2.0
"""vLLM's autotuned kernels, launched as they were tuned the first time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from triton.runtime.autotuner import Autotuner, Config, Heuristics
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction
from vllm.logger import init_logger

from ascend_gdn.fla.cuda.launch import BoundKernel, Grid, KernelDoesNotFitError

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers


class TunedKernel:
    """One of vLLM's autotuned kernels, for arguments that always have the same types and constants.

    The first launch is Triton's own, which tunes the kernel or finds it tuned. Those after it reuse
    what was chosen then. Tuning runs the kernel many times: no argument may be read and written.

    Triton 3.6 leaves out what does not fit the device when it tunes, but tunes once for arguments
    that it compiles apart (an unaligned address, a missing state), which may take more shared
    memory. Where the choice does not fit, the next of the tuner's configurations that does is
    taken, those of the fewest stages first, and the log says so.

    Args:
        kernel: ``heuristics(autotune(jit(…)))``, as vLLM's FLA operators decorate theirs.
        constants: Compile-time arguments, but for those that the heuristics or the tuner add.
    """

    def __init__(self, kernel: Heuristics, **constants: Any) -> None:
        tuner = kernel.fn
        if not isinstance(tuner, Autotuner) or not isinstance(tuner.fn, JITFunction):
            raise TypeError(
                f"TunedKernel: got {type(kernel).__name__} of {type(tuner).__name__}, expected "
                "Heuristics of Autotuner of JITFunction: vLLM's kernel is decorated otherwise than "
                "in 0.23.0"
            )
        self._kernel, self._tuner = kernel, tuner
        self._constants = constants
        self._configs: list[Config] = []
        self._bound: dict[tuple[Any, ...], _Variant] = {}

    def __call__(
        self, grid: Callable[[dict[str, Any]], Grid], stream: int, *args: Any, **decided: Any
    ) -> None:
        """Launch.

        Args:
            grid: The grid, given the compile-time arguments.
            stream: The current stream.
            args: The kernel's own, in its order.
            decided: What the heuristics decide, where that is not the same in each launch.

        Raises:
            KernelDoesNotFitError: No configuration fits the device.
        """
        if not self._configs and self._tune(grid, args):
            return
        key = tuple(decided.values())
        variant = self._bound.get(key)
        if variant is None:
            variant = self._bound[key] = _Variant(
                self._tuner.fn, self._configs, self._given | decided
            )
        try:
            variant.kernel(grid(variant.constants), stream, *args)
        except KernelDoesNotFitError as error:  # only where it is compiled anew
            variant.take_next(error)
            self(grid, stream, *args, **decided)
            variant.report()

    def _tune(self, grid: Callable[[dict[str, Any]], Grid], args: tuple[Any, ...]) -> bool:
        """Have Triton choose, and launch if what it chose fits these arguments."""
        try:
            self._kernel[grid](*args, **self._constants)
            launched = True
        except OutOfResources:
            launched = False
        named = {**dict(zip(self._tuner.arg_names, args, strict=False)), **self._constants}
        given = {name: value(named) for name, value in self._kernel.values.items()}
        self._given = {**self._constants, **given}
        best = self._tuner.best_config
        others = [config for config in self._tuner.configs if config != best]
        self._configs = [best, *sorted(others, key=lambda config: config.num_stages)]
        return launched


class _Variant:
    """A tuned kernel for what the heuristics decide alike, with the best configuration that fits.

    Args:
        kernel: Without heuristics and tuner.
        configs: The tuner's, the best first.
        constants: All other compile-time arguments.
    """

    def __init__(
        self, kernel: JITFunction, configs: list[Config], constants: dict[str, Any]
    ) -> None:
        self._jit, self._given = kernel, constants
        self._configs = list(configs)
        self._errors: list[KernelDoesNotFitError] = []
        self._bind()

    def _bind(self) -> None:
        self.constants = self._given | self._configs[0].all_kwargs()
        self.kernel = BoundKernel(self._jit, **self.constants)

    def take_next(self, error: KernelDoesNotFitError) -> None:
        """Give the configuration up that ``error`` is about; raises the least if it is the last."""
        self._errors.append(error)
        del self._configs[0]
        if not self._configs:
            least = min(self._errors, key=lambda each: each.cause.required)
            raise KernelDoesNotFitError(
                least.kernel, least.cause, len(self._errors)
            ) from least.cause
        self._bind()

    def report(self) -> None:
        """Log, once, that the choice did not fit and what was taken."""
        if self._errors:
            first = self._errors[0]
            logger.warning(
                "ascend-gdn: as tuned, %s does not fit this device (%s); it runs with %s.",
                first.kernel, first.cause, self._configs[0],
            )  # fmt: skip
            self._errors.clear()
