# SPDX-License-Identifier: Apache-2.0
"""Other plug-ins that replace a layer of vLLM's which we replace."""

from __future__ import annotations

from vllm.model_executor.custom_op import CustomOp, PluggableLayer, op_registry_oot


def refuse_rival(replaced: type[PluggableLayer | CustomOp], ours: type | None = None) -> None:
    """Raise ``RuntimeError`` if anything but ``ours`` is registered in place of ``replaced``."""
    registered = op_registry_oot.get(replaced.__name__)
    if registered is not None and registered is not ours:
        raise RuntimeError(
            f"ascend-gdn: got {registered.__module__}.{registered.__qualname__} registered for "
            f"{replaced.__name__}, expected none: another plug-in replaces the same layer. Switch "
            "it off (VLLM_PLUGINS) or use its own worker."
        )
