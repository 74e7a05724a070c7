# SPDX-License-Identifier: Apache-2.0
"""Batches as vLLM's model runner makes them, and both sides' GDN metadata builders."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import torch
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadata, GDNAttentionMetadataBuilder
from vllm.v1.kv_cache_interface import MambaSpec

from ascend_gdn.attention.block_tables import BlockTables
from ascend_gdn.attention.builder import StepGDNAttentionMetadataBuilder
from ascend_gdn.attention.cpu import StepCPUGDNAttentionMetadataBuilder
from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.attention.step import GDNSteps
from ascend_gdn.attention.step_inputs import StepInputs
from ascend_gdn.attention.table_layout import TableLayout, cumsum_block_size
from upstream_calls import known

GROUPS = 3
MAX_NUM_SEQS = 256
VALUE_HEADS = 32
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Workload:
    """One step: for each request its tokens, those of earlier steps, its drafts (-1: none)."""

    name: str
    lengths: list[int]
    context_lens: list[int]
    drafts: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    """Tokens that each request kept of its last step; by default one."""
    state_block_size: int = 0
    """Tokens a state block with prefix caching; 0 without."""
    full_graph: bool = False
    groups: int = GROUPS
    """KV cache groups of GDN layers."""

    @property
    def num_spec(self) -> int:
        return max(self.drafts, default=0)

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)


def prefills(name: str, lengths: list[int]) -> Workload:
    return Workload(name, lengths, [0] * len(lengths))


WORKLOADS = (
    prefills("1 x 4096", [4096]),
    prefills("16 x 512", [512] * 16),
    prefills("64 x 128", [128] * 64),
    prefills("256 x rand(1..256)", np.random.default_rng(0).integers(1, 257, 256).tolist()),
    prefills("1 x 131072", [131072]),
    Workload("48 decode + 16 x 480", [1] * 48 + [480] * 16, [700] * 48 + [0] * 16),
    Workload(
        "MTP: 12 spec x 4 + 4 x 1500",
        [4] * 12 + [1500] * 4,
        [700] * 12 + [0] * 4,
        [3] * 12 + [-1] * 4,
    ),
)

DECODE_WORKLOADS = (
    Workload("16 decodes", [1] * 16, [700] * 16),
    Workload("256 decodes", [1] * 256, [700] * 256),
    Workload("MTP: 16 speculative x 4", [4] * 16, [700] * 16, [3] * 16),
    Workload("16 decodes, full graph", [1] * 16, [700] * 16, full_graph=True),
    Workload(
        "MTP: 16 speculative x 4, full graph", [4] * 16, [700] * 16, [3] * 16, full_graph=True
    ),
    Workload("16 decodes, prefix caching", [1] * 16, [700] * 16, state_block_size=512),
)


class Batch:
    """The runner's persistent buffers for one workload, and a step's metadata cut out of them."""

    def __init__(self, workload: Workload, device: torch.device = CPU) -> None:
        self.workload = workload
        lengths = torch.tensor(workload.lengths, dtype=torch.int32)
        self.context_lens = torch.tensor(workload.context_lens, dtype=torch.int32)
        self.seq_lens = lengths + self.context_lens
        self.query_start_loc = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        self.query_start_loc[1:] = lengths.cumsum(0)
        self.slot_mapping = torch.zeros(workload.num_tokens, dtype=torch.int64, device=device)
        self.device_query_start_loc = self.query_start_loc.to(device)
        self.device_seq_lens = self.seq_lens.to(device)
        self.is_prefilling = self.context_lens == 0
        self.block_tables = block_tables(workload)
        self.device_block_tables = [
            torch.from_numpy(table).to(device) for table in self.block_tables
        ]
        self.req_ids = [f"request {row}" for row in range(len(lengths))]
        self.mamba_state_idx: dict[str, int] = {}
        if workload.state_block_size:
            last_tokens = (self.seq_lens - 1).clamp(min=0)
            columns = (last_tokens // workload.state_block_size).tolist()
            self.mamba_state_idx = dict(zip(self.req_ids, columns, strict=True))
        self.extra: dict[str, torch.Tensor] = {}
        self.num_accepted_tokens = None
        if workload.num_spec:
            accepted = torch.tensor(workload.accepted or [1] * len(lengths), dtype=torch.int32)
            self.num_accepted_tokens = accepted.numpy()
            self.extra = {
                "num_accepted_tokens": accepted.to(device),
                "num_decode_draft_tokens_cpu": torch.tensor(workload.drafts, dtype=torch.int32),
            }

    def common_metadata(self) -> list[CommonAttentionMetadata]:
        """One step's metadata for each group, as vLLM's ``_build_attention_metadata`` makes it.

        Fresh slices each step, which the groups share: vLLM's table helpers cache by tensor
        identity, so reusing the tensors of an earlier step would spare vLLM work that it has to do.
        """
        requests = len(self.workload.lengths)
        base = known(
            CommonAttentionMetadata,
            query_start_loc=self.device_query_start_loc[: requests + 1],
            query_start_loc_cpu=self.query_start_loc[: requests + 1],
            seq_lens=self.device_seq_lens[:requests],
            _seq_lens_cpu=self.seq_lens[:requests],
            _num_computed_tokens_cpu=self.context_lens[:requests],
            seq_lens_cpu_upper_bound=self.seq_lens[:requests],
            num_reqs=requests,
            num_actual_tokens=self.workload.num_tokens,
            max_query_len=max(self.workload.lengths),
            max_seq_len=int(self.seq_lens.max()),
            block_table_tensor=torch.empty(0),
            slot_mapping=self.slot_mapping,
            is_prefilling=self.is_prefilling[:requests],
        )
        groups = [copy(base) for _ in self.block_tables]
        for group, table in zip(groups, self.device_block_tables, strict=True):
            group.block_table_tensor = table[:requests]
        return groups


def block_tables(workload: Workload) -> list[np.ndarray]:
    """Host block tables of the groups: different, non-null blocks for every request."""
    width = workload.num_spec + 1
    if workload.state_block_size:
        longest = max(map(sum, zip(workload.lengths, workload.context_lens, strict=True)))
        width += -(-longest // workload.state_block_size)
    blocks = 1 + np.arange(workload.groups * MAX_NUM_SEQS * width, dtype=np.int32)
    return list(blocks.reshape(workload.groups, MAX_NUM_SEQS, width))


def builder_arguments(
    workload: Workload, device: torch.device = CPU, prefill_backend: str = "triton"
) -> dict[str, object]:
    """A configuration with just what both builders read."""
    speculative = None
    if workload.num_spec:
        speculative = SimpleNamespace(
            num_speculative_tokens=workload.num_spec, parallel_drafting=False
        )
    config = SimpleNamespace(
        speculative_config=speculative,
        scheduler_config=SimpleNamespace(max_num_seqs=MAX_NUM_SEQS),
        cache_config=SimpleNamespace(
            mamba_cache_mode="align" if workload.state_block_size else "none"
        ),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1),
        model_config=SimpleNamespace(hf_text_config=SimpleNamespace(linear_key_head_dim=128)),
        additional_config={"gdn_prefill_backend": prefill_backend},
        compilation_config=SimpleNamespace(
            cudagraph_mode=SimpleNamespace(has_full_cudagraphs=lambda: workload.full_graph),
            max_cudagraph_capture_size=None,
        ),
    )
    spec = MambaSpec(
        shapes=((3, 8192), (32, 128, 128)),
        dtypes=(torch.bfloat16, torch.float32),
        block_size=workload.state_block_size or 1024,
        num_speculative_blocks=workload.num_spec,
    )
    return {
        "kv_cache_spec": spec,
        "layer_names": ["layer"],
        "vllm_config": config,
        "device": device,
    }


class Side:
    """One side of a comparison: the builders of all groups, and how a step runs them."""

    def __init__(
        self, workload: Workload, device: torch.device = CPU, prefill_backend: str = "triton"
    ) -> None:
        self.batch = Batch(workload, device)
        arguments = builder_arguments(workload, device, prefill_backend)
        self.builders = [self.builder_cls(**arguments) for _ in range(workload.groups)]

    builder_cls = GDNAttentionMetadataBuilder

    def step(self, common: list[CommonAttentionMetadata]) -> list[GDNAttentionMetadata]:
        """Build one step's metadata for all groups."""
        return [
            builder.build(0, metadata, **self.batch.extra)
            for builder, metadata in zip(self.builders, common, strict=True)
        ]


class Theirs(Side):
    """vLLM's builders."""


class Ours(Side):
    """Our builders, in a step opened and closed as the model runner does."""

    builder_cls = StepCPUGDNAttentionMetadataBuilder

    def __init__(
        self,
        workload: Workload,
        device: torch.device = CPU,
        table_fill: str = "host",
        prefill_backend: str = "triton",
    ) -> None:
        super().__init__(workload, device, prefill_backend)
        layout = TableLayout(
            max_seqs=MAX_NUM_SEQS,
            max_tokens=max(8192, workload.num_tokens),
            num_groups=workload.groups,
            cumsum_block=cumsum_block_size(VALUE_HEADS),
            num_spec=workload.num_spec,
        )
        self.block_tables = BlockTables(self.batch.block_tables)
        self.stats = GDNStats()
        rows = layout.max_seqs * (layout.num_spec + 1) * self.builder_cls.plans_decodes
        self.steps = GDNSteps(layout, device, self._inputs, self.stats, table_fill, rows)
        for group, builder in enumerate(self.builders):
            builder.bind(self.steps, group)

    def _inputs(self, idle: bool) -> StepInputs:
        batch = self.batch
        if idle:
            return StepInputs.without_requests(batch.num_accepted_tokens)
        inputs = StepInputs(self.block_tables, batch.num_accepted_tokens)
        if batch.mamba_state_idx:  # as the runner has it
            columns = np.fromiter(map(batch.mamba_state_idx.__getitem__, batch.req_ids), np.int64)
            inputs = replace(inputs, state_columns=columns)
        return inputs

    def step(self, common: list[CommonAttentionMetadata]) -> list[GDNAttentionMetadata]:
        with self.steps.open():
            return super().step(common)


class OursOnCuda(Ours):
    """The same with the builders for CUDA, which run on CPU tensors too."""

    builder_cls = StepGDNAttentionMetadataBuilder
