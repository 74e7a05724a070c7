# SPDX-License-Identifier: Apache-2.0
"""Which compiled kernel a launch finds again, and what it does with one that does not fit, over a
kernel that only takes notes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import triton
from triton import language as tl
from triton.runtime.autotuner import Autotuner, Heuristics
from triton.runtime.errors import OutOfResources

from ascend_gdn.fla.cuda import launch
from ascend_gdn.fla.cuda.launch import BoundKernel, KernelDoesNotFitError
from ascend_gdn.fla.cuda.vllm import tuned_kernel
from ascend_gdn.fla.cuda.vllm.tuned_kernel import TunedKernel

GRID, STREAM = (3, 2, 1), 77
PARAMETERS = {
    "x": "pointer",
    "state": "pointer",
    "T": "any number",
    "stride": "number",
    "W": "const",
}


class Kernel:
    """``jit(def kernel(x, state, T, stride, W: constexpr, BLOCK: constexpr))``, as far as used."""

    def __init__(self) -> None:
        kinds = PARAMETERS | {"BLOCK": "const"}
        self.params = [
            SimpleNamespace(
                name=name, is_constexpr=kind == "const", do_not_specialize=kind == "any number"
            )
            for name, kind in kinds.items()
        ]
        self.compiled: list[dict[str, object]] = []
        self.launched: list[tuple[object, ...]] = []

    def run(self, *args, grid, warmup, **constants):
        assert grid == GRID and not warmup
        number = len(self.compiled)
        self.compiled.append(constants)
        return SimpleNamespace(
            run=lambda *launch: self.launched.append((number, *launch)),
            function=f"function {number}",
            packed_metadata=f"metadata {number}",
        )


BUFFER = torch.zeros(64)
ALIGNED, UNALIGNED = BUFFER[4:], BUFFER[5:]


def test_the_same_kind_of_arguments_finds_the_same_kernel_with_the_new_addresses():
    kernel = Kernel()
    bound = BoundKernel(kernel, BLOCK=64, num_warps=4)
    bound(GRID, STREAM, ALIGNED, None, 5, 48, 4)  # Triton compiles and launches it
    assert kernel.compiled == [{"BLOCK": 64, "num_warps": 4}]
    assert kernel.launched == []
    other = BUFFER[16:]
    bound(GRID, STREAM, other, None, 6, 16, 4)
    assert len(kernel.compiled) == 1
    hooks = (None, None, None)
    arguments = (other.data_ptr(), None, 6, 16, 4, 64)
    expected = (0, *GRID, STREAM, "function 0", "metadata 0", *hooks, *arguments)
    assert kernel.launched == [expected]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param((UNALIGNED, None, 5, 48, 4), id="an address not divisible by 16"),
        pytest.param((ALIGNED, BUFFER, 5, 48, 4), id="a tensor where there was none"),
        pytest.param((ALIGNED, None, 5, 1, 4), id="a number that is 1"),
        pytest.param((ALIGNED, None, 5, 47, 4), id="a number not divisible by 16"),
        pytest.param((ALIGNED, None, 5, 48, 3), id="another compile-time number"),
    ],
)
def test_what_triton_compiles_anew_for_is_compiled_anew(changed):
    kernel = Kernel()
    bound = BoundKernel(kernel, BLOCK=64)
    first = (ALIGNED, None, 5, 48, 4)
    for arguments in (first, changed, first, changed):
        bound(GRID, STREAM, *arguments)
    assert len(kernel.compiled) == 2
    assert [launch[0] for launch in kernel.launched] == [0, 1]


def test_a_number_that_triton_does_not_look_at_is_not_looked_at():
    kernel = Kernel()
    bound = BoundKernel(kernel, BLOCK=64)
    for number in (1, 16, 17):
        bound(GRID, STREAM, ALIGNED, None, number, 48, 4)
    assert len(kernel.compiled) == 1
    assert [launch[12] for launch in kernel.launched] == [16, 17]


def test_a_kernel_that_is_not_tuned_is_refused():
    with pytest.raises(TypeError, match="got SimpleNamespace of Kernel, expected Heuristics"):
        TunedKernel(SimpleNamespace(fn=Kernel()))


@triton.jit(do_not_specialize=["T"])
def some_kernel(x, state, T, BV: tl.constexpr, HAS_STATE: tl.constexpr):
    pass


class TunedStub:
    """Triton's own heuristics and tuner over ``some_kernel``, which takes notes and shared memory.

    A program takes ``BV * num_stages`` bytes, and as much again for each of: a state, an address
    that is not divisible by 16. More stages are faster, and of those the wider block.
    """

    def __init__(self, monkeypatch, limit: int) -> None:
        self.limit = limit
        self.launched: list[tuple[int, int, bool]] = []
        self.grids: list[object] = []
        monkeypatch.setattr(some_kernel, "run", self.run)
        configs = [triton.Config({"BV": bv}, 4, stages) for bv in (32, 64) for stages in (2, 3, 4)]
        tuner = Autotuner(some_kernel, some_kernel.arg_names, configs, [], None, None,
                          do_bench=self.bench)  # fmt: skip
        tuner.cache_results = False  # on disk, under the name of a device
        self.kernel = Heuristics(
            tuner, some_kernel.arg_names, {"HAS_STATE": lambda args: args["state"] is not None}
        )

    def run(self, x, state, T, *, grid, warmup, BV, HAS_STATE, num_stages, **_):
        units = 1 + HAS_STATE + (x.data_ptr() % 16 != 0)
        if BV * num_stages * units > self.limit:
            raise OutOfResources(BV * num_stages * units, self.limit, "shared memory")
        self.last = (BV, num_stages, HAS_STATE)
        self.launched.append(self.last)
        self.grids.append(grid({"BV": BV}) if callable(grid) else grid)
        return SimpleNamespace(
            run=lambda *_: self.launched.append((BV, num_stages, HAS_STATE)),
            function=None,
            packed_metadata=None,
        )

    def bench(self, call, quantiles):
        call()
        bv, stages, _ = self.last
        return [1 / (100 * stages + bv)] * 3

    def launch(self, tuned: TunedKernel, x, state=None) -> tuple[int, int]:
        """The configuration that ran: (BV, stages)."""
        tuned(lambda meta: (128 // meta["BV"], 1, 1), STREAM, x, state, 5,
              HAS_STATE=state is not None)  # fmt: skip
        bv, stages, has_state = self.launched[-1]
        assert has_state == (state is not None)
        return bv, stages


def test_what_triton_finds_too_large_is_not_chosen(monkeypatch):
    stub = TunedStub(monkeypatch, limit=64 * 3)
    tuned = TunedKernel(stub.kernel)
    assert stub.launch(tuned, ALIGNED) == (32, 4)
    assert stub.launch(tuned, ALIGNED) == (32, 4)


def test_a_choice_that_does_not_fit_other_arguments_gives_way_to_one_that_does(monkeypatch, mocker):
    warning = mocker.patch.object(tuned_kernel.logger, "warning")
    stub = TunedStub(monkeypatch, limit=64 * 4)
    tuned = TunedKernel(stub.kernel)
    assert stub.launch(tuned, ALIGNED) == (64, 4)
    warning.assert_not_called()
    for _ in range(2):
        assert stub.launch(tuned, UNALIGNED) == (32, 2)  # 64 * 4 * 2 does not fit, 32 * 2 * 2 does
        assert stub.grids[-1] == (4, 1, 1)  # of the block that is launched
    (call,) = warning.call_args_list
    assert "some_kernel" in call.args[0] % call.args[1:]
    assert "Required: 512, Hardware limit: 256" in call.args[0] % call.args[1:]
    # What it is called with a state is apart, and tuned for another limit than is left.
    assert stub.launch(tuned, ALIGNED, BUFFER) == (32, 2)


def test_a_choice_made_for_others_need_not_fit_the_first_launch(monkeypatch):
    stub = TunedStub(monkeypatch, limit=64 * 4)
    stub.kernel[(1, 1, 1)](ALIGNED, None, 5)  # by vLLM, on the same tuner
    assert stub.launch(TunedKernel(stub.kernel), UNALIGNED) == (32, 2)


def test_where_no_choice_fits_the_kernel_and_the_memory_are_named(monkeypatch):
    stub = TunedStub(monkeypatch, limit=63)
    expected = "kernel some_kernel .* got 63 of shared memory, expected 64 for the least of 6 conf"
    with pytest.raises(KernelDoesNotFitError, match=expected):
        stub.launch(TunedKernel(stub.kernel), ALIGNED)
    bound = BoundKernel(some_kernel, BV=64, HAS_STATE=False, num_stages=2)
    with pytest.raises(
        KernelDoesNotFitError, match=r"some_kernel .* expected 128 for the least of 1"
    ):
        bound(GRID, STREAM, ALIGNED, None, 5)


def test_the_launcher_of_the_pinned_triton_is_known():
    assert launch.has_known_launcher.__wrapped__()


@pytest.mark.parametrize(
    ("version", "launcher"),
    [
        ("3.7.0", lambda self, gridX, gridY, gridZ, stream, function, *args: None),
        ("3.6.1", lambda self, grid, stream, function, *args: None),
    ],
)
def test_with_another_launcher_kernels_are_launched_by_tritons_own_way(mocker, version, launcher):
    mocker.patch.object(launch.triton, "__version__", version)
    mocker.patch.object(launch.CudaLauncher, "__call__", launcher)
    warning = mocker.patch.object(launch.logger, "warning")
    mocker.patch.object(launch, "has_known_launcher", launch.has_known_launcher.__wrapped__)
    kernel = Kernel()
    bound = BoundKernel(kernel, BLOCK=64)
    warning.assert_called_once()
    assert version in warning.call_args.args[0] % warning.call_args.args[1:]
    for _ in range(2):
        bound(GRID, STREAM, ALIGNED, None, 512, 128, 4)
    assert kernel.compiled == [{"BLOCK": 64}] * 2  # each time it is asked
    assert kernel.launched == []
