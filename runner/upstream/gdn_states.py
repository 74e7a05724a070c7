# SPDX-License-Identifier: Apache-2.0
"""The tensors that prefix caching copies between blocks, for ours in place of vLLM's copies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from vllm.model_executor.layers.mamba.mamba_utils import (
    MambaStateCopyFunc,
    get_conv_copy_spec,
    get_temporal_copy_spec,
    is_conv_state_dim_first,
)
from vllm.v1.kv_cache_interface import KVCacheConfig, MambaSpec

States: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]
"""Each layer's windows, [blocks, W - 1 + K, conv_dim] with any strides, and recurrent states."""


def states_by_group(
    kv_cache_config: KVCacheConfig,
    layers: Mapping[str, Any],
    copy_funcs: Sequence[MambaStateCopyFunc],
) -> dict[int, States]:
    """The states of each KV cache group of GDN layers; arguments and errors as below."""
    return {
        group: gdn_states(each.layer_names, layers, copy_funcs)
        for group, each in enumerate(kv_cache_config.kv_cache_groups)
        if isinstance(each.kv_cache_spec, MambaSpec)
    }


def gdn_states(
    names: Iterable[str], layers: Mapping[str, Any], copy_funcs: Sequence[MambaStateCopyFunc]
) -> States:
    """The states of the layers ``names``.

    Args:
        names: Of GDN layers. vLLM's KV cache owns their states.
        layers: vLLM's static forward context: the layers by name, their KV cache bound.
        copy_funcs: The model's ``get_mamba_state_copy_func()``: one for each of a layer's tensors.

    Raises:
        ValueError: for a kind of state that has neither of vLLM's two copy functions.
    """
    if tuple(copy_funcs) != (get_conv_copy_spec, get_temporal_copy_spec):
        raise ValueError(
            f"ascend-gdn: got state copy functions {copy_funcs}, expected vLLM's for a convolution "
            "and a recurrent state: the model keeps another kind of state"
        )
    states = [layers[name].kv_cache for name in names]
    if is_conv_state_dim_first():
        return [(windows.transpose(1, 2), recurrent) for windows, recurrent in states]
    return states
