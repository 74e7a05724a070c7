# SPDX-License-Identifier: Apache-2.0
"""The layer over vLLM's model runner: it opens a step around each metadata build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.logger import init_logger

from ascend_gdn.attention.builder import StepGDNAttentionMetadataBuilder
from ascend_gdn.attention.table_layout import TableLayout, cumsum_block_size
from ascend_gdn.runner.pool import StepBufferPool
from ascend_gdn.runner.stats import GDNStats
from ascend_gdn.runner.step import GDNSteps

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner as Base
else:
    Base = object

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers


class StepModelRunnerMixin(Base):
    """Owns the step and its buffer pool. Put it before a vLLM model runner in the bases.

    The pool is made when vLLM has made the metadata builders (vLLM 0.23.0:
    ``initialize_metadata_builders``), since only then the KV cache groups are known, and again
    whenever vLLM sets up the KV cache anew.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.gdn_stats = GDNStats()
        self.gdn_pool: StepBufferPool | None = None
        self.gdn_steps: GDNSteps | None = None
        super().__init__(*args, **kwargs)

    def initialize_metadata_builders(self, *args: Any, **kwargs: Any) -> None:
        super().initialize_metadata_builders(*args, **kwargs)
        self.bind_gdn_builders()

    def _build_attention_metadata(self, *args: Any, **kwargs: Any) -> Any:
        if self.gdn_steps is None:
            return super()._build_attention_metadata(*args, **kwargs)
        with self.gdn_steps.open():
            return super()._build_attention_metadata(*args, **kwargs)

    def bind_gdn_builders(self) -> None:
        """Make the pool and connect every GDN builder to the steps; leave others alone."""
        self.close_gdn_pool()
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
        layout = TableLayout(
            max_seqs=self.max_num_reqs,
            max_tokens=self.max_num_tokens,
            num_groups=len(groups),
            cumsum_block=cumsum_block_size(value_heads),
            num_spec=builders[0][1].num_spec,
        )
        self.gdn_pool = StepBufferPool(layout, self.device, self.gdn_stats)
        self.gdn_steps = GDNSteps(
            self.gdn_pool,
            # Asked at each step: vLLM may replace the input batch after the builders are made.
            lambda: [self.input_batch.block_table[g].get_numpy_array() for g in groups],
            self.gdn_stats,
        )
        for kv_cache_group, builder in builders:
            builder.bind(self.gdn_steps, groups.index(kv_cache_group))
        logger.info(
            "ascend-gdn: %d KV cache groups of GDN layers share one metadata plan a step "
            "(up to %d sequences, %d tokens; pool of %d bytes).",
            len(groups),
            layout.max_seqs,
            layout.max_tokens,
            self.gdn_stats.pool_bytes,
        )

    def close_gdn_pool(self) -> None:
        """Give the pool's buffers back; builders still bound to it raise from then on."""
        if self.gdn_pool is not None:
            self.gdn_pool.close()
