# SPDX-License-Identifier: Apache-2.0
"""One scheduler step: opened by the runner, planned once, for all KV cache groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ascend_gdn.attention.batch_split import BatchSplit
from ascend_gdn.attention.chunk_plan import (
    NO_ROWS,
    fill_chunk_tables,
    fill_cu_seqlens,
    fill_offsets,
)
from ascend_gdn.attention.context_parallel import ContextParallelSplit, fill_context_parallel
from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.metadata import GDNChunkedPrefillMetadata
from ascend_gdn.attention.pool import Slot, StepBufferPool
from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.attention.step_inputs import StepInputs
from ascend_gdn.attention.step_metadata import StepGDNAttentionMetadata
from ascend_gdn.attention.table_fill import make_device_fill
from ascend_gdn.attention.table_layout import TableLayout
from ascend_gdn.attention.verify import StepVerifier


class GDNStep:
    """What the builders of one step share. The first of them splits the batch and plans it."""

    slot: Slot
    """Where the tables are; set by ``plan``, as what follows."""
    generation: int
    """The slot's, when they were written."""
    chunk: GDNChunkedPrefillMetadata | None = None
    """None if the slot is of steps without prefills."""
    rows = spec_rows = 0
    """Of the tables of requests; what a graph is padded to, too."""
    uniform = False
    """Planned in a slot of steps without prefills, all its requests of equally many tokens."""

    def __init__(self, steps: GDNSteps, inputs: StepInputs, idle: bool) -> None:
        self.inputs = inputs
        self.idle = idle
        """A dummy batch: it has a shape, but no request of its own."""
        self.split: BatchSplit | None = None
        self.groups: list[StepGDNAttentionMetadata] | None = None
        """What the builders of the groups hand out; made with the plan, by the first of them."""
        self.kept = steps.kept
        self.stats = GDNStats() if idle else steps.stats  # a dummy batch is no step to count
        self.verifier = None if idle else steps.verifier
        self._steps = steps

    def __enter__(self) -> GDNStep:
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.current = None

    def plan(self, split: BatchSplit, chunk_cls: type[GDNChunkedPrefillMetadata]) -> None:
        """Fill one slot with every table of the step and send it: once a step, for all groups.

        Args:
            split: Of the step's batch.
            chunk_cls: The platform's.

        Raises:
            GDNContractError: The step is larger than the pools were made for.
        """
        steps = self._steps
        steps.check_capacity(split)
        fixed = steps.decode_pool if split.num_prefills == 0 else None
        pool = steps.pool if fixed is None else fixed
        self.slot = slot = pool.acquire()
        self.generation = slot.generation
        first_sent, device_fill = 0, steps.device_fill
        if split.num_prefills > 0:
            lengths = split.non_spec.lengths[split.num_decodes :]
            fill = fill_chunk_tables if device_fill is None else fill_cu_seqlens
            rows = fill(slot.host, slot.host_tables, slot.layout, lengths)
            if device_fill is not None:
                first_sent = slot.layout.num_chunk_tables
        else:
            slot.host[: slot.layout.num_padded] = slot.layout.padding
            rows = NO_ROWS
        seqs, spec_seqs = len(split.non_spec), 0 if split.spec is None else len(split.spec)
        slot.pad_after(seqs, split.num_prefills, spec_seqs)
        if seqs:
            self._fill_non_spec(split)
        if split.spec is not None:
            self._fill_spec(split)
        if isinstance(split, ContextParallelSplit):
            self._fill_context_parallel(split)
        pool.publish(slot, self._used_elements(split), first_sent)
        if device_fill is not None and split.num_prefills > 0:
            device_fill(slot.device_buffer, split.num_prefills)
            self.stats.table_kernels += 1
        if fixed is None:
            self.chunk = chunk_cls.over(slot, split.num_prefills, rows)
            self.stats.plans_built += 1
            self.stats.prefill_steps += split.num_prefills > 0
        else:
            self.uniform = split.is_uniform(slot.layout.num_spec)

    def _fill_non_spec(self, split: BatchSplit) -> None:
        """Write where the tokens of decodes and prefills start, and where their states are."""
        tables, layout = self.slot.host_tables, self.slot.layout
        requests, decodes, seqs = split.non_spec, split.num_decodes, len(split.non_spec)
        starts, state_indices = tables["query_start_loc"], tables["state_indices"]
        self.inputs.write_blocks(requests.rows, state_indices[:, :seqs, None])
        if not layout.has_prefills:  # one token each
            starts[:seqs] = layout.arange[:seqs]
            starts[seqs:] = seqs
            return
        fill_offsets(starts, requests.lengths)
        tables["has_initial_state"][:seqs] = requests.context_lens  # as bool: whether any
        prefill_state_indices = tables["prefill_state_indices"]
        prefill_state_indices[:, : split.num_prefills] = state_indices[:, decodes:seqs]

    def _fill_spec(self, split: BatchSplit) -> None:
        """Write where the tokens of speculative requests are, what these kept, and where it is."""
        spec, mask, inputs = split.spec, split.spec_mask, self.inputs
        tables, arange = self.slot.host_tables, self.slot.layout.arange
        assert spec is not None and mask is not None and inputs.num_accepted_tokens is not None
        count = len(spec)
        fill_offsets(tables["spec_query_start_loc"], spec.lengths)
        lengths = tables["spec_actual_seq_lengths"]  # the start is 0, as is padding
        lengths[1 : count + 1] = spec.lengths
        tables["num_accepted_tokens"][:count] = inputs.num_accepted_tokens[spec.rows]
        inputs.write_blocks(spec.rows, tables["spec_state_indices"][:, :count])
        token_indx, others = tables["token_indx"], split.num_prefill_tokens
        if others == 0:
            tables["spec_sequence_masks"][:count] = True
            token_indx[: split.num_tokens] = arange[: split.num_tokens]
            return
        tables["spec_sequence_masks"][: len(mask)] = mask  # over the runner's rows
        if split.spec_first:
            token_indx[:others] = arange[split.num_spec_tokens : split.num_tokens]
            token_indx[others : split.num_tokens] = arange[: split.num_spec_tokens]
            return
        assert split.row_lengths is not None
        token_is_spec = mask.repeat(split.row_lengths)
        token_indx[:others] = (~token_is_spec).nonzero()[0]
        token_indx[others : len(token_is_spec)] = token_is_spec.nonzero()[0]

    def _fill_context_parallel(self, split: ContextParallelSplit) -> None:
        tables = self.slot.host_tables
        # The layer puts what comes before a rank's part where the convolution finds it.
        tables["has_initial_state"][: len(split.non_spec)] = True
        prefills, indices = split.prefills, tables["shared_state_indices"]
        self.inputs.write_blocks(prefills.rows, indices[:, : len(prefills), None])
        fill_context_parallel(tables, split)

    def _used_elements(self, split: BatchSplit) -> int:
        """How far the step fills its slot, and sends it."""
        layout = self.slot.layout
        if split.spec is not None:
            return layout.places["token_indx"].start + split.num_tokens
        return layout.num_fixed


class GDNSteps:
    """The runner's steps: at most one open at a time, closed whatever happens inside.

    Args:
        layout: Of the steps with prefills.
        device: The model's.
        inputs: Asked once a step, with whether it is idle: vLLM may replace its buffers after the
            builders are made.
        stats: What is counted.
        table_fill: Who is asked to fill the chunk tables, "host" or "triton".
        decode_rows: Most requests and tokens of a step without prefills, as graphs pad it, which
            then has a buffer of its own at fixed addresses; 0 where such steps are not planned.
        verifier: Checks each planned step; None but in verify mode.
    """

    def __init__(
        self,
        layout: TableLayout,
        device: torch.device,
        inputs: Callable[[bool], StepInputs],
        stats: GDNStats,
        table_fill: str = "host",
        decode_rows: int = 0,
        verifier: StepVerifier | None = None,
    ) -> None:
        self.verifier = verifier
        self.current: GDNStep | None = None
        self.kept: dict[tuple[int, ...], list[StepGDNAttentionMetadata]] = {}
        """The metadata of uniform steps, by their shape."""
        self.stats = stats
        self.pool = StepBufferPool(layout, device, stats)
        self.decode_pool = None
        if decode_rows:
            decodes = layout.without_prefills(decode_rows)
            self.decode_pool = StepBufferPool(decodes, device, stats, fixed=True)
        self.device_fill = make_device_fill(table_fill, layout, device)
        self._inputs = inputs
        self._idle = False

    def open(self) -> GDNStep:
        """Open a step, for a ``with`` around the build of all groups' metadata."""
        if self.current is not None:
            raise GDNContractError(
                layer="GDNSteps",
                field="open",
                found="a step that is already open",
                expected="one step at a time",
                cause="_build_attention_metadata was entered from within itself",
            )
        step = self.current = GDNStep(self, self._inputs(self._idle), self._idle)
        self.stats.steps += not self._idle
        return step

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Steps opened inside are dummy batches: warm-up, capture, idle data-parallel ranks."""
        self._idle = True
        try:
            yield
        finally:
            self._idle = False

    def check_capacity(self, split: BatchSplit) -> None:
        """Raise :class:`GDNContractError` if the step is larger than the pools were made for."""
        layout, spec, tokens = self.pool.layout, split.spec, split.num_tokens
        seqs = len(split.non_spec) + (0 if spec is None else len(spec))
        if seqs > layout.max_seqs or tokens > layout.max_tokens:
            raise GDNContractError(
                layer="StepBufferPool",
                field="capacity",
                found=f"a step of {seqs} sequences and {tokens} tokens",
                expected=f"at most {layout.max_seqs} sequences and {layout.max_tokens} tokens",
                cause="the scheduler exceeds the configuration that the pool was sized from; raise "
                "--max-num-seqs or --max-num-batched-tokens",
            )

    def close(self) -> None:
        """Let go of all buffers; every later step raises."""
        self.kept.clear()
        self.pool.close()
        if self.decode_pool is not None:
            self.decode_pool.close()
