# SPDX-License-Identifier: Apache-2.0
"""A request that sits a step out loses count of the drafts it kept.

The token budget or a lack of blocks can leave a running request out of a step. vLLM takes it from
the batch then, and adds it again as one that kept a single token (``add_request`` in
v1/worker/gpu_input_batch.py): its GDN layers go on from the wrong one of the states that its drafts
left. Under asynchronous scheduling its drafts are -1 as well, which ends the engine on CUDA
(vllm-project/vllm#37159). Under it, too, counts that were swapped with their rows are looked up by
the rows of the last step.

Versions: vLLM 0.23.0 and 0.30.0, vllm-ascend over them. Delete when the runner keeps the counts
of requests that it takes from the batch, as vLLM's V2 runner does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.worker.gpu_input_batch import InputBatch
from vllm.v1.worker.mamba_utils import cleanup_mamba_state_idx

from ascend_gdn.runner.base import Base


class LeftOutRequestsMixin(Base):
    """Put it before a vLLM model runner in the bases."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.left_out: dict[str, int] = {}
        """What the running requests that the scheduler left out kept of their last step."""
        self.returned: dict[str, int] = {}
        """The same of those that come back in this step."""
        super().__init__(*args, **kwargs)

    def _update_states(self, scheduler_output: SchedulerOutput) -> Any:
        if self.speculative_config is None:
            return super()._update_states(scheduler_output)
        batch, scheduled = self.input_batch, scheduler_output.num_scheduled_tokens.keys()
        # Taken from the batch and put into it at once: preempted by a reset of the prefix cache, or
        # another request by the name of one that was aborted.
        anew = scheduler_output.finished_req_ids | (
            scheduler_output.scheduled_cached_reqs.resumed_req_ids
        )
        # Until vLLM updates the batch its rows are those of the last step.
        leaving = [
            (row, each)
            for row, each in enumerate(batch.req_ids)
            if each not in scheduled or each in anew
        ]
        moving = leaving or (self.use_async_scheduling and self._falls_behind(scheduler_output))
        if moving:  # only then: it may wait for the last step
            last = self.last_accepted_counts()
            kept = last.copy()
            self.left_out.update((req_id, int(kept[row])) for row, req_id in leaving)
        cleanup_mamba_state_idx(scheduler_output, self.left_out)  # those have no state any more
        self.returned = {each: self.left_out.pop(each) for each in self.left_out.keys() & scheduled}
        corrections = super()._update_states(scheduler_output)
        if not self.use_async_scheduling:
            self._restore(batch.num_accepted_tokens_cpu)
            return corrections
        if moving and batch.prev_req_id_to_index:
            # If some row of the last step is left, _prepare_inputs looks the counts up by the rows
            # of then, and expects them to arrive there; vLLM has just moved them with their rows.
            last[:] = kept
        replace_draft_placeholders(batch, self.returned)
        return corrections

    def _falls_behind(self, scheduler_output: SchedulerOutput) -> bool:
        """Whether a request may go from among the decodes to behind them, though none leaves.

        Computed again after a preemption, it passes for a decode while it is given no more tokens
        than one that verifies drafts (``reorder_batch_to_split_decodes_and_prefills`` in
        v1/attention/backends/utils.py, 0.23.0).
        """
        batch, drafts = self.input_batch, scheduler_output.scheduled_spec_decode_tokens
        counts = scheduler_output.num_scheduled_tokens
        return len(drafts) < len(counts) and any(
            tokens > 1
            and req_id not in drafts
            and (row := batch.req_id_to_index.get(req_id)) is not None
            and batch.num_computed_tokens_cpu[row] >= batch.num_prompt_tokens[row]
            for req_id, tokens in counts.items()
        )

    def _prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_inputs(*args, **kwargs)
        if self.use_async_scheduling and self.returned:
            # Only here has vLLM moved the counts to the rows of this step (0.23.0); one that was
            # not in the last step it gives a 1. preprocess_mamba comes later.
            self._restore(self.input_batch.num_accepted_tokens_cpu)
            self._restore(self.num_accepted_tokens.np)
            self.num_accepted_tokens.copy_to_gpu()
        return prepared

    def _restore(self, counts: np.ndarray) -> None:
        """Write what those that came back had kept to their rows of ``counts``."""
        for req_id, count in self.returned.items():
            counts[self.input_batch.req_id_to_index[req_id]] = count

    def last_accepted_counts(self) -> np.ndarray:
        """What each row of the last step kept, int, on the host; waits for that step."""
        self.num_accepted_tokens_event.synchronize()
        return self.input_batch.num_accepted_tokens_cpu


def replace_draft_placeholders(batch: InputBatch, returned: Iterable[str]) -> None:
    """Let the requests ``returned`` verify token 0 where vLLM gives them no draft.

    Its asynchronous scheduler names every draft -1, and the runner puts what the last step drafted
    in its place (_prepare_input_ids in v1/worker/gpu_model_runner.py, 0.23.0), but for requests
    that were not in that step: a -1 is no row of an embedding, and ends the engine on CUDA
    (vllm-project/vllm#37159). Whatever is verified, the answer is the same.
    """
    for req_id in returned:
        row = batch.req_id_to_index[req_id]
        start = batch.num_tokens_no_spec[row]
        drafts = batch.token_ids_cpu[row, start : start + len(batch.spec_token_ids[row])]
        drafts[drafts < 0] = 0
