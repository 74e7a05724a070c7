# SPDX-License-Identifier: Apache-2.0
"""The layer over vLLM's model runner: it opens a step around each metadata build."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from vllm.logger import init_logger

from ascend_gdn.attention.builder import StepGDNAttentionMetadataBuilder
from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.attention.step import GDNSteps
from ascend_gdn.attention.step_inputs import StepInputs
from ascend_gdn.attention.table_layout import TableLayout, cumsum_block_size
from ascend_gdn.runner.additional_options import table_fill_option
from ascend_gdn.runner.left_out import LeftOutRequests
from ascend_gdn.runner.upstream.allowed_tokens import write_allowed_tokens
from ascend_gdn.runner.upstream.unknown_prompt_tokens import replace_unknown_prompt_tokens
from ascend_gdn.runner.upstream.unknown_stop_tokens import forget_unknown_stop_tokens

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner as Base
else:
    Base = object

WARM_UP_TOKENS = 64
"""Of a dummy batch with a prefill; half of them are more than what verifies drafts."""

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers


class StepModelRunnerMixin(Base):
    """Owns the step and its buffer pools. Put it before a vLLM model runner in the bases.

    The pools are made when vLLM has made the metadata builders (vLLM 0.23.0:
    ``initialize_metadata_builders``), since only then the KV cache groups are known, and again
    whenever vLLM sets up the KV cache anew.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.gdn_stats = GDNStats()
        self.gdn_steps: GDNSteps | None = None
        self.left_out = LeftOutRequests()
        self.num_drafting = 0
        super().__init__(*args, **kwargs)

    def initialize_metadata_builders(self, *args: Any, **kwargs: Any) -> None:
        super().initialize_metadata_builders(*args, **kwargs)
        self.bind_gdn_builders()

    def _build_attention_metadata(self, *args: Any, **kwargs: Any) -> Any:
        if self.gdn_steps is None:
            return super()._build_attention_metadata(*args, **kwargs)
        with self.gdn_steps.open():
            return super()._build_attention_metadata(*args, **kwargs)

    def _dummy_run(self, *args: Any, **kwargs: Any) -> Any:
        if self.gdn_steps is None:
            return super()._dummy_run(*args, **kwargs)
        with self.gdn_steps.idle():
            return super()._dummy_run(*args, **kwargs)

    def warm_up_prefill(self) -> None:
        """Run a prefill once, with the KV cache in place, where the first would compile kernels."""

    def _determine_batch_execution_and_padding(
        self,
        num_tokens: int,
        num_reqs: int,
        num_scheduled_tokens_np: np.ndarray,
        *args: Any,
        force_uniform_decode: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """vLLM's, without a decode graph for a batch in which some request prefills.

        vLLM takes any batch of equally many tokens a request for decodes: prompts of one token, or
        a last chunk of num_spec + 1, also of a request that was preempted and is computed again. A
        decode graph has no prefill: their states would not move.
        """
        batch = self.input_batch
        computed = batch.num_computed_tokens_cpu[:num_reqs]
        prefills = np.count_nonzero(computed < batch.num_prompt_tokens[:num_reqs])
        # With several tokens each, all that decode verify drafts.
        prefills |= num_scheduled_tokens_np[0] > 1 and self.num_drafting < num_reqs
        if force_uniform_decode is None and prefills:
            force_uniform_decode = False
        return super()._determine_batch_execution_and_padding(
            num_tokens,
            num_reqs,
            num_scheduled_tokens_np,
            *args,
            force_uniform_decode=force_uniform_decode,
            **kwargs,
        )

    def _update_states(self, scheduler_output: SchedulerOutput) -> Any:
        batch, new = self.input_batch, scheduler_output.scheduled_new_reqs
        forget_unknown_stop_tokens(new, batch.vocab_size)
        replace_unknown_prompt_tokens(new, batch.vocab_size)
        last = batch.sampling_metadata
        corrections = self._update_states_of_all(scheduler_output)
        if batch.sampling_metadata is not last:
            write_allowed_tokens(batch, self.requests)
        return corrections

    def _update_states_of_all(self, scheduler_output: SchedulerOutput) -> Any:
        """vLLM's, without forgetting what a request kept of its last step if it sits one out."""
        if self.speculative_config is None:
            return super()._update_states(scheduler_output)
        self.num_drafting = len(scheduler_output.scheduled_spec_decode_tokens)
        batch = self.input_batch
        last = self.left_out.update(scheduler_output, batch.req_ids, self.last_accepted_counts)
        kept = None if last is None else last.copy()
        corrections = super()._update_states(scheduler_output)
        if not self.use_async_scheduling:
            self.left_out.restore(batch.num_accepted_tokens_cpu, batch.req_id_to_index)
            return corrections
        if last is not None and kept is not None and batch.prev_req_id_to_index:
            # If some row of the last step is left, _prepare_inputs looks the counts up by the rows
            # of then, and expects them to arrive there; vLLM has just moved them with their rows.
            last[:] = kept
        self.left_out.replace_draft_placeholders(batch)
        return corrections

    def _prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_inputs(*args, **kwargs)
        if self.use_async_scheduling and self.left_out.returned:
            # Only here has vLLM moved the counts to the rows of this step (0.23.0); one that was
            # not in the last step it gives a 1. preprocess_mamba comes later.
            rows = self.input_batch.req_id_to_index
            self.left_out.restore(self.input_batch.num_accepted_tokens_cpu, rows)
            self.left_out.restore(self.num_accepted_tokens.np, rows)
            self.num_accepted_tokens.copy_to_gpu()
        return prepared

    def last_accepted_counts(self) -> np.ndarray:
        """What each row of the last step kept, int, on the host; waits for that step."""
        self.num_accepted_tokens_event.synchronize()
        counts: np.ndarray = self.input_batch.num_accepted_tokens_cpu
        return counts

    def bind_gdn_builders(self) -> None:
        """Make the pools and connect every GDN builder to the steps; leave others alone."""
        self.close_gdn_pools()
        builders = [
            (kv_cache_group, builder)
            for kv_cache_group, attn_groups in enumerate(self.attn_groups)
            for attn_group in attn_groups
            for builder in attn_group.metadata_builders
            if isinstance(builder, StepGDNAttentionMetadataBuilder)
        ]
        if not builders:
            logger.info("ascend-gdn: the model has no GDN layers; this worker adds nothing to it.")
            return
        groups = sorted({kv_cache_group for kv_cache_group, _ in builders})
        value_heads = (
            self.model_config.hf_text_config.linear_num_value_heads
            // self.parallel_config.tensor_parallel_size
        )
        conv_history = 0
        if self.parallel_config.prefill_context_parallel_size > 1:
            conv_history = self.model_config.hf_text_config.linear_conv_kernel_dim - 1
        layout = TableLayout(
            max_seqs=self.max_num_reqs,
            max_tokens=self.max_num_tokens,
            num_groups=len(groups),
            cumsum_block=cumsum_block_size(value_heads),
            num_spec=builders[0][1].num_spec,
            conv_block=builders[0][1].conv_block,
            conv_history=conv_history,
        )
        # A graph pads a step without prefills to as many tokens as it was captured with.
        rows = max(
            self.max_num_reqs * (layout.num_spec + 1), builders[0][1].decode_cudagraph_max_bs
        )
        self.gdn_steps = GDNSteps(
            layout,
            self.device,
            lambda idle: self._gdn_step_inputs(groups, idle),
            self.gdn_stats,
            table_fill_option(self.vllm_config),
            decode_rows=rows if builders[0][1].plans_decodes else 0,
        )
        for kv_cache_group, builder in builders:
            builder.bind(self.gdn_steps, groups.index(kv_cache_group))
        logger.info(
            "ascend-gdn: %d KV cache groups of GDN layers share one metadata plan a step "
            "(up to %d sequences, %d tokens; pools of %d bytes).",
            len(groups),
            layout.max_seqs,
            layout.max_tokens,
            self.gdn_stats.pool_bytes,
        )

    def _gdn_step_inputs(self, groups: list[int], idle: bool) -> StepInputs:
        """What a step takes from the runner's host buffers (gpu_model_runner.py, 0.23.0)."""
        batch = self.input_batch
        inputs = StepInputs(
            block_tables=[batch.block_table[group].get_numpy_array() for group in groups],
            # _prepare_inputs waits for the counts of the last step, and brings them to this one's
            # rows: the host's are exact.
            num_accepted_tokens=self.num_accepted_tokens.np if self.speculative_config else None,
        )
        if idle:
            return inputs.without_requests()
        if self.cache_config.mamba_cache_mode == "align":
            # Where preprocess_mamba has just put each request's state.
            columns = np.fromiter(map(self.mamba_state_idx.__getitem__, batch.req_ids), np.int64)
            inputs = replace(inputs, state_columns=columns)
        return inputs

    def close_gdn_pools(self) -> None:
        """Give the pools' buffers back; builders still bound to them raise from then on."""
        if self.gdn_steps is not None:
            self.gdn_steps.close()
            self.gdn_steps = None
