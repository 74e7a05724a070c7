# SPDX-License-Identifier: Apache-2.0
"""Whether every Triton kernel of ours lowers for Ascend 910B: ``make lowering``.

It proves that the front end and the adapter accept a kernel, every operation is legal, the on-chip
memory suffices, synchronisation can be inserted, and the library functions that it calls exist. It
proves nothing about code generation, results, races or speed on a device, nor about the compiler
that a user's CANN brings. First come kernels that must be refused, so that it proves anything.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from inspect import signature
from itertools import product
from pathlib import Path

import controls
from lower import Kernel, LoweringError, lower

from ascend_gdn.attention.device_fill import DeviceFill, fill_chunk_tables_kernel
from ascend_gdn.attention.table_layout import TableLayout, cumsum_block_size
from ascend_gdn.fla.state_copies import TILE, leave_states_kernel

ROOT = Path(__file__).parents[2]
VERSIONS = {"triton-ascend": "3.2.0", "ascendnpu-ir": "1.2.0"}
CLAIM = "lowers for Ascend910B3 to HIVM IR (triton-ascend 3.2.0 + AscendNPU-IR 1.2.0)"

KERNEL_FILES = {"attention/device_fill.py", "fla/state_copies.py"}
"""Sources with Triton kernels that an NPU runs, so all but ``fla/cuda``: each is lowered below."""
VALUE_HEADS = (1, 2, 4, 8, 16, 32, 64)
"""A rank's, of models that have 16 to 64, under tensor parallel 1 to 16."""
SIZES = ((1, 1), (256, 8192), (1024, 1 << 20))
"""Sequences and tokens a step."""
STATES = ((4, 2), (32, 2), (32, 4))
"""A rank's value heads of 128 columns, half as many key heads; bytes of a convolution's element."""


def our_kernels() -> dict[str, Kernel]:
    """Our kernels at the compile-time arguments that configurations lead to, by name."""
    kernels = {}
    for (max_seqs, max_tokens), heads in product(SIZES, VALUE_HEADS):
        layout = TableLayout(max_seqs, max_tokens, 3, cumsum_block_size(heads))
        kernels[f"({max_seqs} seqs, {max_tokens} tokens, cumsum block {layout.cumsum_block})"] = (
            Kernel(
                fill_chunk_tables_kernel,
                {"buffer": "*i32", "num_seqs": "i32"},
                DeviceFill(layout).constants,
            )
        )
    parameters = list(signature(leave_states_kernel.fn).parameters)
    pointers, strides = parameters[:9], parameters[9:13]
    addresses = {"block_tables", "state_addresses"}
    for (heads, window_bytes), drafts in product(STATES, (1, 3)):
        constants = {
            "BLOCK_SIZE": 1088,
            "ROWS": 3 + drafts,
            "COLUMNS": heads * 256,
            "COLUMN_STRIDE": 1,
            "WINDOW_BYTES": window_bytes,
            "WORDS": heads * 128 * 128,
            "TILE": TILE,
        }
        kernels[f"({heads} value heads, {drafts} drafts, {8 * window_bytes} bits)"] = Kernel(
            leave_states_kernel,
            {name: "*i64" if name in addresses else "*i32" for name in pointers}
            | dict.fromkeys(strides, "i32"),
            constants,
        )
    return kernels


VALUES = {"out": "*i32", "values": "*i32"}
FLOAT_VALUES = {"out": "*i32", "values": "*fp32"}
REFUSED = (
    (Kernel(controls.too_much_memory, VALUES, {"SIZE": 1 << 16}), "ub overflow"),
    (
        Kernel(controls.weaker_options_needed, VALUES, {"SIZE": 1 << 15}),
        "fell back to weaker options",
    ),
    (
        Kernel(controls.two_strided_stores, {"out": "*i32", "rows": "i32"}, {"SIZE": 128}),
        "triton-adapter-opt: exit -6",
    ),
    (
        Kernel(controls.missing_library_call, FLOAT_VALUES, {"SIZE": 128}),
        "not in the device library: _mlir_ciface_reduce_max_with_index",
    ),
    (Kernel(controls.vector_division, VALUES, {"SIZE": 128}), "float arithmetic"),
)
"""Kernels that must be refused, and with which words."""
ACCEPTED = (
    Kernel(controls.too_much_memory, VALUES, {"SIZE": 1 << 10}),
    Kernel(controls.weaker_options_needed, VALUES, {"SIZE": 1 << 10}),
    Kernel(controls.missing_library_call, VALUES, {"SIZE": 128}),
)
"""Some of them at other arguments, at which nothing is wrong with them."""


def outcome(kernel: Kernel) -> str:
    """What comes of lowering a kernel: "lowers", or why it does not."""
    try:
        hivm = lower(kernel)
    except LoweringError as error:
        return str(error)
    # Ours have integers alone. On Ascend a vector's ``//`` goes through float32, wrong from 2**24.
    return "float arithmetic" if re.search(r"\bb?f(16|32)\b", hivm) else "lowers"


def check(name: str, kernel: Kernel, expected: str) -> bool:
    """Say whether ``expected`` is in what comes of ``kernel``."""
    found = outcome(kernel)
    if expected in found:
        print(f"ok   {kernel.function.__name__} {name}: {expected}")
        return True
    print(f"FAIL {kernel.function.__name__} {name}: expected {expected!r}, found:\n{found}")
    return False


def files_with_kernels() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for folder in ("attention", "fla", "runner")
        for path in (ROOT / folder).rglob("*.py")
        if "triton.jit" in path.read_text() and ROOT / "fla/cuda" not in path.parents
    }


def main() -> int:
    for package, expected in VERSIONS.items():
        if version(package) != expected:
            print(f"error: got {package} {version(package)}, expected {expected}: make clean")
            return 1
    if (found := files_with_kernels()) != KERNEL_FILES:
        print(f"error: got Triton kernels in {found}, expected {KERNEL_FILES}: lower those too")
        return 1
    results = [check("(control)", kernel, reason) for kernel, reason in REFUSED]
    results += [check("(control)", kernel, "lowers") for kernel in ACCEPTED]
    results += [check(name, kernel, "lowers") for name, kernel in our_kernels().items()]
    if not all(results):
        print(f"lowering: {results.count(False)} of {len(results)} checks failed")
        return 1
    print(f"Every Triton kernel of ours {CLAIM}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
