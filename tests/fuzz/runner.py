# SPDX-License-Identifier: Apache-2.0
"""Our layer over vLLM's model runner (0.23.0), as far as batches and metadata go.

vLLM's own are the batch, ``_update_states`` and ``_build_attention_metadata``; what
``_prepare_inputs`` and ``_dummy_run`` do beside copying tokens is written out here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.utils import CpuGpuBuffer
from vllm.v1.worker.gpu_input_batch import InputBatch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from ascend_gdn.attention.context_parallel import ContextParallelBatch
from ascend_gdn.attention.step_inputs import StepInputs
from ascend_gdn.runner.model_runner import StepModelRunnerMixin
from both_sides.workloads import CPU, Workload, builder_arguments
from upstream_calls import known

from .model import CONV_HISTORY, Config
from .stand_ins import AttentionBuilder, AttentionGroup

MAX_MODEL_LEN = 3200


class VllmRunner:
    """vLLM's, of one GDN layer a group; the second KV cache group is attention's."""

    is_pooling_model = uses_mrope = enable_prompt_embeds = routed_experts_initialized = False
    is_mm_prefix_lm = False
    uses_xdrope_dim, dcp_world_size, drafter = 0, 1, None
    device, max_model_len = CPU, MAX_MODEL_LEN
    _update_states = GPUModelRunner._update_states
    _may_reorder_batch = GPUModelRunner._may_reorder_batch
    _compute_prev_positions = GPUModelRunner._compute_prev_positions
    _build_attention_metadata = GPUModelRunner._build_attention_metadata
    _get_encoder_seq_lens = GPUModelRunner._get_encoder_seq_lens

    def __init__(self, config: Config, builder_cls: type) -> None:
        self.config, self.builder_cls = config, builder_cls
        self.max_num_reqs, self.max_num_tokens = config.max_seqs, config.max_tokens
        spec = config.num_spec
        self.num_spec_tokens, self.reorder_batch_threshold = spec, 1 + spec
        self.use_async_scheduling = config.asynchronous
        self.use_async_spec_decode = config.asynchronous and spec > 0
        self.speculative_config = None
        if spec:
            self.speculative_config = SimpleNamespace(use_ngram_gpu=lambda: False)
        self.cache_config = SimpleNamespace(
            mamba_cache_mode="align" if config.block_size else "none",
            kv_sharing_fast_prefill=False,
            use_replayssm=False,
        )
        self._process_encoder_cache_scheduler_output = lambda _: None  # from 0.30.0 on, as below
        self._on_request_state_removed = lambda *_: None
        text = SimpleNamespace(
            linear_num_value_heads=config.value_heads, linear_conv_kernel_dim=CONV_HISTORY + 1
        )
        self.model_config = SimpleNamespace(hf_text_config=text, rswa_window=None)
        self.parallel_config = SimpleNamespace(
            tensor_parallel_size=1, prefill_context_parallel_size=config.ranks
        )
        self.vllm_config = SimpleNamespace(additional_config={})
        self.late_interaction_runner = SimpleNamespace(
            on_requests_finished=lambda *_: None, register_request=lambda *_: None
        )
        names = ["gdn", "attention", *["gdn"] * (config.groups - 1)]
        self.kv_cache_config = SimpleNamespace(
            kv_cache_groups=[SimpleNamespace(kv_cache_spec=name) for name in names]
        )
        rows = self.rows = config.max_seqs * (spec + 1) + 1
        self.query_start_loc = self._buffer(rows + 1)
        self.num_accepted_tokens = self._buffer(rows)
        self.num_decode_draft_tokens = self._buffer(rows)
        self.prev_num_draft_tokens, self.prev_positions = self._buffer(rows), self._buffer(rows)
        self.optimistic_seq_lens_cpu = torch.zeros(rows, dtype=torch.int32)
        self.seq_lens, self.positions = (
            torch.zeros_like(self.optimistic_seq_lens_cpu),
            torch.empty(0),
        )
        self.num_accepted_tokens_event = SimpleNamespace(synchronize=self.arrive)
        self.initialize_kv_cache()

    @staticmethod
    def _buffer(size: int) -> CpuGpuBuffer:
        return CpuGpuBuffer(size, dtype=torch.int32, device=CPU, pin_memory=False)

    def initialize_kv_cache(self) -> None:
        """Builders, then a batch with nothing in it: in vLLM's order."""
        self.requests, self.num_prompt_logprobs, self.encoder_cache = {}, {}, {}
        self.mamba_state_idx: dict[str, int] = {}
        self.arriving: list[int] | None = None
        self.initialize_metadata_builders()
        self.may_reinitialize_input_batch()

    def initialize_metadata_builders(self) -> None:
        config = self.config
        steps = Workload(
            "any",
            [1],
            [1],
            [config.num_spec] if config.num_spec else [],
            full_graph=config.full_graph,
        )
        arguments = builder_arguments(steps)
        arguments["vllm_config"].scheduler_config.max_num_seqs = config.max_seqs
        self.builders, self.attn_groups = [], []
        for number, group in enumerate(self.kv_cache_config.kv_cache_groups):
            builder: Any = AttentionBuilder()
            if group.kv_cache_spec == "gdn":
                builder = self.builder_cls(**arguments)
                self.builders.append(f"layer {number}")
            self.attn_groups.append([AttentionGroup(builder, [f"layer {number}"])])

    def may_reinitialize_input_batch(self) -> None:
        groups, columns = len(self.attn_groups), 1 + self.config.num_spec
        if self.config.block_size:
            columns += MAX_MODEL_LEN // self.config.block_size
        self.input_batch = known(
            InputBatch,
            max_num_reqs=self.config.max_seqs,
            max_model_len=MAX_MODEL_LEN,
            max_num_batched_tokens=self.config.max_tokens,
            device=CPU,
            pin_memory=False,
            vocab_size=1000,
            block_sizes=[1024] * groups,
            kernel_block_sizes=[1024] * groups,
            max_num_blocks_per_req=[columns] * groups,
            num_spec_tokens=self.config.num_spec,
        )
        self.slot_mappings = dict.fromkeys(range(groups), self.positions)

    def arrive(self) -> None:
        """The accepted counts of the last step reach the host."""
        if self.arriving is not None:
            self.input_batch.num_accepted_tokens_cpu[: len(self.arriving)] = self.arriving
            self.arriving = None

    def end_step(self, kept: dict[str, int], partial: Collection[str], early: bool) -> None:
        """The accepted counts of the step are on their way; ``partial``: requests without a token
        of it, of which an asynchronous runner keeps none."""
        batch = self.input_batch
        if not self.speculative_config:
            return
        self.arriving = [kept[name] for name in batch.req_ids]
        if early or not self.use_async_scheduling:
            self.arrive()
        if self.use_async_scheduling:
            rows = batch.req_id_to_index.items()
            batch.prev_req_id_to_index = {name: row for name, row in rows if name not in partial}

    def _prepare_inputs(self, output: SchedulerOutput) -> np.ndarray:
        """Tokens of each row on this rank."""
        batch, rows = self.input_batch, self.input_batch.num_reqs
        whole = np.array([output.num_scheduled_tokens[r] for r in batch.req_ids], dtype=np.int32)
        lengths = self._own_part(whole)
        self._write_lengths(lengths, batch.num_computed_tokens_cpu[:rows] + lengths)
        self._compute_prev_positions(rows)
        self._write_accepted_counts(rows)
        drafts = self.num_decode_draft_tokens.np
        if output.scheduled_spec_decode_tokens:
            drafts[:] = -1
            for req_id, tokens in output.scheduled_spec_decode_tokens.items():
                row = batch.req_id_to_index[req_id]
                if batch.num_computed_tokens_cpu[row] >= batch.num_prompt_tokens[row]:
                    drafts[row] = len(tokens)
        return lengths

    def _own_part(self, whole: np.ndarray) -> np.ndarray:
        ranks, rank = self.config.ranks, self.config.rank
        if ranks == 1:
            return whole
        decodes = 0
        for row, length in enumerate(whole):
            if length > 1 or not self.input_batch.num_computed_tokens_cpu[row]:
                break
            decodes += 1
        self.whole_batch = ContextParallelBatch(whole, decodes, ranks, rank)
        own = whole // ranks + (rank < whole % ranks)
        own[:decodes] = 1
        return own.astype(np.int32)

    def _write_accepted_counts(self, rows: int) -> None:
        batch, counts = self.input_batch, self.num_accepted_tokens.np
        if not self.speculative_config:
            counts[:] = 1
            return
        self.num_accepted_tokens_event.synchronize()
        if self.use_async_scheduling and batch.prev_req_id_to_index:
            before = batch.num_accepted_tokens_cpu.copy()
            for row, last in enumerate(self.prev_positions.np[:rows]):
                counts[row] = batch.num_accepted_tokens_cpu[row] = 1 if last < 0 else before[last]
        else:
            counts[:rows] = batch.num_accepted_tokens_cpu[:rows]
        counts[rows:] = 1
        self.num_accepted_tokens.copy_to_gpu()

    def _write_lengths(self, lengths: np.ndarray, seq_lens: np.ndarray) -> None:
        rows, starts = len(lengths), self.query_start_loc.np
        starts[0] = 0
        np.cumsum(lengths, out=starts[1 : rows + 1])
        starts[rows + 1 :] = starts[rows]
        self.query_start_loc.copy_to_gpu()
        self.optimistic_seq_lens_cpu[:rows] = torch.from_numpy(seq_lens)
        self.optimistic_seq_lens_cpu[rows:] = 0

    def _determine_batch_execution_and_padding(
        self,
        num_tokens: int,
        num_reqs: int,
        num_scheduled_tokens_np: np.ndarray,
        force_uniform_decode: bool | None = None,
    ) -> bool:
        """Whether a graph of decodes is replayed (``_is_uniform_decode``)."""
        if force_uniform_decode is not None:
            return force_uniform_decode
        longest = int(num_scheduled_tokens_np.max())
        return longest == 1 + self.num_spec_tokens and num_tokens == longest * num_reqs

    def run(self, lengths: np.ndarray, padded: int, drafts: bool, capture: bool = False) -> list:
        """The GDN layers' metadata; ``padded``: tokens of the graph that is replayed, or 0."""
        longest = int(lengths.max())
        found, _ = self._build_attention_metadata(
            num_tokens=int(lengths.sum()),
            num_reqs=len(lengths),
            max_query_len=longest,
            num_tokens_padded=padded or None,
            num_reqs_padded=padded // max(longest, 1) or None,
            use_spec_decode=drafts,
            for_cudagraph_capture=capture,
            slot_mappings=self.slot_mappings,
        )
        return [found[layer] for layer in self.builders]

    def _dummy_run(self, lengths: np.ndarray, seq_lens: np.ndarray, capture: bool) -> list:
        self._write_lengths(lengths, seq_lens)
        return self.run(lengths, 0, self.speculative_config is not None, capture)


class Runner(StepModelRunnerMixin, VllmRunner):
    """Ours; under context parallelism it tells the step of the whole batch, as on Ascend."""

    def _gdn_step_inputs(self, groups: list[int], idle: bool) -> StepInputs:
        inputs = super()._gdn_step_inputs(groups, idle)
        if idle or self.config.ranks == 1:
            return inputs
        return replace(inputs, context_parallel=self.whole_batch)
