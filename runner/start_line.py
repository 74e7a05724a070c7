# SPDX-License-Identifier: Apache-2.0
"""The line that a worker logs once it is up: what is active."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import vllm
from vllm.config import VllmConfig

from ascend_gdn.attention.step import GDNSteps
from ascend_gdn.runner.metrics import VARIABLE, is_asked_for


def start_line(
    vllm_config: VllmConfig, steps: GDNSteps, device_type: str, kernels: str, published: bool
) -> str:
    """What is active of that which depends on the model, the options or the machine.

    Args:
        vllm_config: As it is when all graphs are captured.
        steps: With their pools.
        device_type: The platform.
        kernels: Whose run prefills.
        published: Whether metrics are.
    """
    layout, compilation = steps.pool.layout, vllm_config.compilation_config
    fill = "the host" if steps.device_fill is None else "Triton"
    graphs = "no graphs"
    if compilation.cudagraph_mode.name != "NONE":
        largest = compilation.max_cudagraph_capture_size
        graphs = f"{compilation.cudagraph_mode.name} graphs to {largest} tokens"
    verify = "off" if steps.verifier is None else "on"
    metrics = "published" if published else "not published"
    if not is_asked_for():
        metrics += f", no {VARIABLE}"
    return (
        f"ascend-gdn {_own_version()}, vLLM {vllm.__version__}, {device_type}: "
        f"prefills by {kernels}; one metadata plan a step for {layout.num_groups} KV cache groups, "
        f"up to {layout.max_seqs} sequences and {layout.max_tokens} tokens; "
        f"tables filled by {fill}; pools of {steps.stats.pool_bytes} bytes; {graphs}; "
        f"verify mode {verify}; metrics {metrics}"
    )


def _own_version() -> str:
    try:
        return version("ascend-gdn")
    except PackageNotFoundError:  # its folders on Python's path, without an installation
        return "(not installed)"
