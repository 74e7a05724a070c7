# SPDX-License-Identifier: Apache-2.0
"""What the worker makes of a model and vLLM's flags, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

from ascend_gdn.cli.doctor.findings import Finding, advice, ok, refused
from ascend_gdn.cli.doctor.platform import device_type
from ascend_gdn.cli.workers import worker_path

LARGEST_MEASURED = 2048
"""Tokens of the largest CUDA graph in benchmarks/results/README.md, four arms."""


def model(flags: list[str]) -> Iterator[Finding]:
    from pydantic import ValidationError
    from vllm.utils.import_utils import resolve_obj_by_qualname

    from ascend_gdn.runner.worker import StepWorkerMixin

    try:
        config = vllm_config(flags)
    except ValidationError as error:  # by its own text a page of types and links
        yield from (refused(f"vLLM: {each['msg']}") for each in error.errors())
        return
    asked = dict(config.additional_config)  # before the worker's check settles what is "auto"
    name = config.parallel_config.worker_cls
    worker_cls = resolve_obj_by_qualname(name)
    if not issubclass(worker_cls, StepWorkerMixin):
        yield advice(f"--worker-cls {name}, not ours", worker_path(device_type()),
                     f"--worker-cls {worker_path(device_type())}")  # fmt: skip
    elif not worker_cls.check(config):
        yield advice(
            f"{config.model_config.model} has no GDN layers",
            "a model that has",
            "leave --worker-cls out: this worker adds nothing to it",
        )
    else:
        yield ok(f"{config.model_config.model} with {name}")
        yield from measured(config, asked.get("gdn_prefill_backend"))


def vllm_config(flags: list[str]) -> Any:
    """As a server would have it, with our worker unless ``flags`` name one; loads no weights.

    Raises:
        ValueError: vLLM refuses the flags.
    """
    from vllm import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    with redirect_stderr(StringIO()) as said:
        try:
            parsed = parser.parse_args(flags)
        except SystemExit as error:
            raise ValueError(
                f"{said.getvalue().strip().splitlines()[-1]} (flags of the engine alone, and none "
                "of the server)"
            ) from error
    arguments = EngineArgs.from_cli_args(parsed)
    if arguments.worker_cls == "auto":
        arguments.worker_cls = worker_path(device_type())
    return arguments.create_engine_config(UsageContext.OPENAI_API_SERVER)


def measured(config: Any, backend: object) -> Iterator[Finding]:
    """What was measured to cost, and what to do about it; ``backend`` as it was asked for."""
    from vllm.config import CUDAGraphMode

    from ascend_gdn.runner.checks.additional_options import gdn_options, given_in

    options = gdn_options(config)
    if options.table_fill == "triton":
        yield advice(
            "table_fill 'triton'",
            "'host', which took less host time wherever both were measured",
            f"leave table_fill out of {given_in()}",
        )
    if options.verify:
        yield advice(
            "verify mode, which costs 0.1 to 1 ms of host time a step (docs/operations.md)",
            "off, but in days of doubt",
            f"leave verify out of {given_in()}",
        )
    if device_type() != "cuda":
        return
    if str(backend).lower() == "triton":
        yield advice(
            "prefills on vLLM's kernels, 2.5 to 4.0 times the device time of ours in a layer "
            "(benchmarks/results, one H200, one rank)",
            "ours, where card and heads allow",
            "leave --gdn-prefill-backend out",
        )
    graphs = config.compilation_config
    if graphs.cudagraph_mode.mixed_mode() != CUDAGraphMode.NONE:  # else none has a prefill
        yield from captures_of(
            graphs.cudagraph_capture_sizes, config.scheduler_config.max_num_batched_tokens
        )


def captures_of(sizes: list[int], tokens: int) -> Iterator[Finding]:
    """Whether prompts that fit a step of ``tokens`` run without a graph of their length."""
    largest, top = max(sizes, default=0), min(tokens, LARGEST_MEASURED)
    if 0 < largest < top:
        lengths = [2**i for i in range(top.bit_length()) if 2**i < top]
        yield advice(
            f"captures end at {largest}: prompts of {largest + 1} to {top} tokens pay about twice "
            "or more (1.9 times at 2040, 3.7 at 1000; benchmarks/results, one H200)",
            f"captures to {top}",
            f"--cudagraph-capture-sizes {' '.join(map(str, [*lengths, top]))}",
        )
