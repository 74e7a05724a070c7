# SPDX-License-Identifier: Apache-2.0
"""Our builders, by the configuration."""

from __future__ import annotations

from typing import Any

from ascend_gdn.attention.builder import StepGDNAttentionMetadataBuilder
from ascend_gdn.attention.context_parallel import (
    ContextParallelSplit,
    split_context_parallel,
    tables_of,
)
from ascend_gdn.attention.cpu import StepCPUGDNAttentionMetadataBuilder

from .model import Config


class PartsBuilder(StepGDNAttentionMetadataBuilder):
    """As that of Ascend under context parallelism (``attention/ascend.py``)."""

    plans_decodes = False

    def _split_batch(self, step: Any, common: Any, draft_tokens: Any) -> Any:
        batch = step.inputs.context_parallel
        if batch is None:
            return super()._split_batch(step, common, draft_tokens)
        return split_context_parallel(
            common.query_start_loc_cpu.numpy(), common.seq_lens_cpu_upper_bound.numpy(), batch
        )

    def _add_groups(self, groups: list[Any], step: Any, split: Any) -> None:
        super()._add_groups(groups, step, split)
        if isinstance(split, ContextParallelSplit):
            for group, metadata in enumerate(groups):
                metadata.context_parallel = tables_of(step.slot, split, group)


def builder_cls(config: Config) -> type:
    if config.ranks > 1:
        return PartsBuilder
    if config.slots == "host":
        return StepCPUGDNAttentionMetadataBuilder
    return StepGDNAttentionMetadataBuilder
