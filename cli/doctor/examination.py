# SPDX-License-Identifier: Apache-2.0
"""All checks, in their order, and what each needs to be able to say anything."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from functools import partial

from ascend_gdn.cli.doctor.findings import Check, Examination
from ascend_gdn.cli.doctor.installed import (
    command,
    flashinfer,
    npu,
    packages,
    python,
    vllm,
    vllm_ascend,
    worker_asked_for,
)
from ascend_gdn.cli.doctor.model import model
from ascend_gdn.cli.doctor.platform import cpu, platform, plug_ins, seams, triton


def checks_of(flags: list[str]) -> list[Check]:
    """``flags`` are vLLM's, ``--model`` among them, or none."""
    checks = [
        Check("Python", python),
        Check("packages", packages),
        Check("worker", partial(worker_asked_for, flags)),
        Check("NPU", npu),
        Check("vLLM", vllm, needs=("NPU",)),  # torch, which it imports, fails with torch-npu
        Check("vLLM-Ascend", vllm_ascend),
        Check("command", command),
        Check("FlashInfer", flashinfer),
        Check("platform", platform, needs=("NPU", "vLLM", "vLLM-Ascend")),
        Check("CPU", cpu, needs=("platform",)),
        Check("Triton", triton, needs=("platform",)),
        Check("seams", seams, needs=("platform", "Triton")),
        Check("plug-ins", plug_ins, needs=("platform",)),
    ]
    if flags:
        checks.append(
            Check("model", partial(model, flags), needs=("platform", "worker", "Triton", "seams"))
        )
    return checks


def examine(flags: list[str]) -> Examination:
    """Run them all."""
    examination = Examination()
    with redirect_stdout(sys.stderr):  # what vLLM and its plug-ins print is no part of the report
        for check in checks_of(flags):
            examination.run(check)
    return examination
