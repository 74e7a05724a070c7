# SPDX-License-Identifier: Apache-2.0
"""Which compiled kernel a launch finds again, over a kernel that only takes notes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ascend_gdn.fla.cuda.launch import BoundKernel, TunedKernel

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
