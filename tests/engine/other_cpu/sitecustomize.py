# SPDX-License-Identifier: Apache-2.0
"""Have vLLM, torch and oneDNN take the paths of a CPU with AVX2 and no more, or of one without AMX.

With this folder on ``PYTHONPATH``, every Python process starts with it, and ``CPU_LIKE`` says
which: "avx2" or "no_amx". vLLM 0.23.0 heeds no variable: it asks torch (platforms/cpu.py,
cpu_fused_moe.py), which asks the processor.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

LIKE = os.environ.get("CPU_LIKE")
AMX = ("amx_tile", "amx_fp16")
HIDDEN = {"avx2": ("avx512", "avx512_bf16", "vnni", *AMX), "no_amx": AMX}.get(LIKE, ())
if LIKE == "avx2":
    os.environ |= {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }


class Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        for name in HIDDEN:
            assert callable(getattr(module, f"_is_{name}_supported"))
            setattr(module, f"_is_{name}_supported", lambda: False)


class Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None) -> ModuleSpec | None:
        if name != "torch.cpu":
            return None
        spec = PathFinder.find_spec(name, path, target)
        spec.loader = Loader(name, spec.origin)
        return spec


sys.meta_path.insert(0, Finder())
