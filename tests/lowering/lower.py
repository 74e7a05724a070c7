# SPDX-License-Identifier: Apache-2.0
"""One Triton kernel to Ascend 910B's HIVM IR, on a plain CPU, with neither CANN nor an NPU.

Two steps. triton-ascend's front end and adapter make linalg of a kernel; ``bishengir-compile`` of
AscendNPU-IR makes HIVM of that: it legalises every operation, plans the on-chip memory, inserts the
synchronisation. What would come next, Huawei's closed ``hivmc``, is in neither package.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from triton._C.libtriton import ir
from triton.backends.ascend.compiler import make_ttir, ttir_to_linalg
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import ASTSource, make_backend

ARCH = "Ascend910B3"
PACKAGE = Path(find_spec("ascendnpuir").origin or "").parent
OPTIONS = (
    f"--target={ARCH}",
    "--enable-auto-multi-buffer=True",
    "--enable-auto-bind-sub-block=True",
    "--enable-hfusion-compile=true",
    "--enable-hivm-compile=true",
    "--enable-triton-kernel-compile=true",
)
"""As ``linalg_to_bin_enable_npu_compile`` in triton-ascend 3.2.0 gives them for 910B."""
REACHED_THE_END = "External hivmc run fails, returning module before running external compiler"


class LoweringError(Exception):
    """A kernel that does not lower; the message is the compiler's."""


@dataclass(frozen=True)
class Kernel:
    """A kernel at one choice of its compile-time arguments.

    Args:
        function: The ``triton.jit`` function.
        signature: Triton's type of each run-time argument, in their order.
        constants: The compile-time arguments.
    """

    function: Any
    signature: dict[str, str]
    constants: dict[str, int]


def to_linalg(kernel: Kernel) -> str:
    """Run triton-ascend's front end and adapter."""
    target = GPUTarget("npu", ARCH, 0)
    backend = make_backend(target)
    options = backend.parse_options({})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    source = ASTSource(kernel.function, kernel.signature, kernel.constants)
    module = source.make_ir(
        options, backend.get_codegen_implementation(), backend.get_module_map(), context
    )
    metadata = {**options.__dict__, "hash": "", "target": target}
    try:
        linalg = ttir_to_linalg(
            make_ttir(module, metadata, options), metadata, options, named_ops=True
        )
    except subprocess.CalledProcessError as error:
        output = error.stderr.decode()[:500]
        raise LoweringError(f"triton-adapter-opt: exit {error.returncode}: {output}") from None
    return re.sub(r', mix_mode\s*=\s*"[^"]*"', "", linalg)  # triton-ascend takes it out too


def to_hivm(linalg: str) -> str:
    """Run AscendNPU-IR's pipeline up to the code generator that is not there."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "kernel.mlir"), Path(folder, "module.hivm.opt.mlir")
        source.write_text(linalg)
        compiler = PACKAGE / "bin" / "bishengir-compile"
        run = subprocess.run(
            [compiler, source, *OPTIONS, f"--save-temps={folder}", "-o", Path(folder, "kernel.o")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        log = run.stdout
        if REACHED_THE_END not in log or not result.exists():
            raise LoweringError(f"bishengir-compile: {log[-2000:]}")
        if "Ub overflow detected" in log:
            raise LoweringError(f"bishengir-compile fell back to weaker options: {log[-2000:]}")
        return result.read_text()


def called_symbols(hivm: str) -> set[str]:
    """Library functions that a module calls, by the names that the linker looks for."""
    declared = re.findall(r"^ *func\.func private @(\w+)\(.*llvm\.emit_c_interface", hivm, re.M)
    return {f"_mlir_ciface_{name}" for name in declared}


@cache
def library() -> bytes:
    """Bitcode of the device library for 910B (core c220)."""
    files = sorted((PACKAGE / "lib").glob("meta_op.*.c220.bc"))
    return b"".join(file.read_bytes() for file in files)


def lower(kernel: Kernel) -> str:
    """Lower a kernel, check that what it calls is in the device library, and return the HIVM IR.

    Raises:
        LoweringError: with what the compiler said, or the functions that are missing.
    """
    hivm = to_hivm(to_linalg(kernel))
    missing = {name for name in called_symbols(hivm) if name.encode() not in library()}
    if missing:
        raise LoweringError(f"not in the device library: {', '.join(sorted(missing))}")
    return hivm
