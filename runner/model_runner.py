# SPDX-License-Identifier: Apache-2.0
"""The layer over vLLM's model runner: it opens a step around each metadata build."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from vllm.logger import init_logger
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.utils import record_function_or_nullcontext

from ascend_gdn.attention.block_tables import BlockTables
from ascend_gdn.attention.builder import StepGDNAttentionMetadataBuilder
from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.attention.step import GDNSteps
from ascend_gdn.attention.step_inputs import StepInputs
from ascend_gdn.attention.table_layout import TableLayout, cumsum_block_size
from ascend_gdn.attention.verify import StepVerifier
from ascend_gdn.runner.checks.additional_options import gdn_options
from ascend_gdn.runner.metrics import VARIABLE, GDNMetrics, is_asked_for
from ascend_gdn.runner.state_block_tables import keep_on_host
from ascend_gdn.runner.upstream.allowed_tokens import write_allowed_tokens
from ascend_gdn.runner.upstream.decode_graphs import PrefillsNeedNoGraphMixin
from ascend_gdn.runner.upstream.left_out_requests import LeftOutRequestsMixin
from ascend_gdn.runner.upstream.unknown_prompt_tokens import replace_unknown_prompt_tokens
from ascend_gdn.runner.upstream.unknown_stop_tokens import forget_unknown_stop_tokens

WARM_UP_TOKENS = 64
"""Of a dummy batch with a prefill; half of them are more than what verifies drafts."""

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers


class StepModelRunnerMixin(LeftOutRequestsMixin, PrefillsNeedNoGraphMixin):
    """Owns the step and its buffer pools. Put it before a vLLM model runner in the bases.

    The pools are made when vLLM has made the metadata builders (vLLM 0.23.0:
    ``initialize_metadata_builders``), since only then the KV cache groups are known, and again
    whenever vLLM sets up the KV cache anew.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.gdn_stats = GDNStats()
        self.gdn_steps: GDNSteps | None = None
        self.gdn_metrics: GDNMetrics | None = None
        super().__init__(*args, **kwargs)

    def initialize_metadata_builders(self, *args: Any, **kwargs: Any) -> None:
        super().initialize_metadata_builders(*args, **kwargs)
        self.bind_gdn_builders()

    def may_reinitialize_input_batch(self, *args: Any, **kwargs: Any) -> None:
        super().may_reinitialize_input_batch(*args, **kwargs)
        if self.gdn_steps is not None:
            keep_on_host(self.input_batch.block_table, self.gdn_groups)

    def _build_attention_metadata(self, *args: Any, **kwargs: Any) -> Any:
        with (
            record_function_or_nullcontext("gdn.plan"),
            self.gdn_steps.open() if self.gdn_steps else nullcontext(),
        ):
            built = super()._build_attention_metadata(*args, **kwargs)
        if self.gdn_metrics is not None:
            self.gdn_metrics.step_built()
        return built

    def _dummy_run(self, *args: Any, **kwargs: Any) -> Any:
        with self.gdn_steps.idle() if self.gdn_steps else nullcontext():
            return super()._dummy_run(*args, **kwargs)

    def publish_gdn_metrics(self) -> None:
        """From here on, where anybody reads them; a folder that cannot be used is a warning."""
        self.end_gdn_metrics()
        if self.gdn_steps is not None and is_asked_for():
            parallel = self.parallel_config
            # data_parallel_rank is 0 in all engines of a dense model (v1/engine/core.py, 0.23.0).
            engine = parallel.data_parallel_index
            try:
                self.gdn_metrics = GDNMetrics(self.gdn_stats, parallel.rank, engine)
            except OSError as error:
                logger.warning(
                    "ascend-gdn: metrics are not published: got %s=%s (%s), expected a folder that "
                    "can be written, with room; the model is served without them.",
                    VARIABLE,
                    os.environ[VARIABLE],
                    error.strerror,
                )

    def end_gdn_metrics(self) -> None:
        """Publish what was counted until now, and nothing from here on."""
        if self.gdn_metrics is not None:
            self.gdn_metrics.end()
            self.gdn_metrics = None

    def warm_up_prefill(self) -> None:
        """Run a prefill once, with the KV cache in place, where the first would compile kernels."""

    def _update_states(self, scheduler_output: SchedulerOutput) -> Any:
        batch, new = self.input_batch, scheduler_output.scheduled_new_reqs
        forget_unknown_stop_tokens(new, batch.vocab_size)
        replace_unknown_prompt_tokens(new, batch.vocab_size)
        last = batch.sampling_metadata
        corrections = super()._update_states(scheduler_output)
        if batch.sampling_metadata is not last:
            write_allowed_tokens(batch, self.requests)
        return corrections

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
        first = builders[0][1]
        self.gdn_groups = groups = sorted({kv_cache_group for kv_cache_group, _ in builders})
        self._tables_seen = None
        text, parallel = self.model_config.hf_text_config, self.parallel_config
        value_heads = text.linear_num_value_heads // parallel.tensor_parallel_size
        in_parts = parallel.prefill_context_parallel_size > 1
        layout = TableLayout(
            max_seqs=self.max_num_reqs,
            max_tokens=self.max_num_tokens,
            num_groups=len(groups),
            cumsum_block=cumsum_block_size(value_heads),
            num_spec=first.num_spec,
            conv_history=text.linear_conv_kernel_dim - 1 if in_parts else 0,
        )
        # A graph pads a step without prefills to as many tokens as it was captured with.
        rows = max(self.max_num_reqs * (layout.num_spec + 1), first.decode_cudagraph_max_bs)
        options = gdn_options(self.vllm_config)
        verifier = None
        if options.verify:
            verifier = StepVerifier(Path(options.verify_dumps))
            logger.warning(
                "ascend-gdn: verify mode: every step's tables are planned again, slowly, and "
                "compared on the device."
            )
        self.gdn_steps = GDNSteps(
            layout,
            self.device,
            lambda idle: self._gdn_step_inputs(groups, idle),
            self.gdn_stats,
            options.table_fill,
            decode_rows=rows if first.plans_decodes else 0,
            verifier=verifier,
        )
        for kv_cache_group, builder in builders:
            builder.bind(self.gdn_steps, groups.index(kv_cache_group))

    def _gdn_step_inputs(self, groups: list[int], idle: bool) -> StepInputs:
        """What a step takes from the runner's host buffers (gpu_model_runner.py, 0.23.0)."""
        # _prepare_inputs waits for the counts of the last step, and brings them to this one's rows:
        # the host's are exact.
        accepted = self.num_accepted_tokens.np if self.speculative_config else None
        if idle:
            return StepInputs.without_requests(accepted)
        batch = self.input_batch
        if batch.block_table is not self._tables_seen:  # vLLM makes them anew with the input batch
            self._tables_seen = batch.block_table
            arrays = [batch.block_table[group].get_numpy_array() for group in groups]
            self._gdn_block_tables = BlockTables(arrays)
        inputs = StepInputs(self._gdn_block_tables, accepted)
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
