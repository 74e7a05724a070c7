# SPDX-License-Identifier: Apache-2.0
"""What vLLM's runner finds around itself, and GDN layers have nothing to do with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from vllm.v1.worker import gpu_model_runner


@contextmanager
def one_rank() -> Iterator[None]:
    """vLLM asks a process group that a test does not have."""
    group = SimpleNamespace(is_last_rank=True)
    with mock.patch.object(gpu_model_runner, "get_pp_group", return_value=group):
        yield


class AttentionBuilder:
    """Of a group that is not ours."""

    supports_update_block_table = False

    def build(self, **_: Any) -> None:
        return None

    def build_for_cudagraph_capture(self, _: Any) -> None:
        return None


class AttentionGroup:
    def __init__(self, builder: Any, layer_names: list[str]) -> None:
        self.metadata_builders, self.layer_names = [builder], layer_names

    def get_metadata_builder(self, _: int) -> Any:
        return self.metadata_builders[0]
