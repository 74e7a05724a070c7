# SPDX-License-Identifier: Apache-2.0
"""A request that sits a step out loses count of the drafts it kept.

The token budget or a lack of blocks can leave a running request out of a step. vLLM takes it from
the batch then, and adds it again as one that kept a single token (``add_request`` in
v1/worker/gpu_input_batch.py): its GDN layers go on from the wrong one of the states that its drafts
left. Under asynchronous scheduling its drafts are -1 as well, which ends the engine on CUDA
(vllm-project/vllm#37159).

Versions: vLLM 0.23.0, vllm-ascend 0.23.0 and 0.23.0.post1. Delete when the runner keeps the counts
of requests that it takes from the batch, as vLLM's V2 runner does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.worker.gpu_input_batch import InputBatch
from vllm.v1.worker.mamba_utils import cleanup_mamba_state_idx

from ascend_gdn.runner.base import Base


class LeftOutRequests:
    """Accepted counts of the running requests that the scheduler left out, by request."""

    def __init__(self) -> None:
        self.waiting: dict[str, int] = {}
        self.returned: dict[str, int] = {}
        """Those that come back in this step."""

    def update(
        self,
        scheduler_output: SchedulerOutput,
        req_ids: Sequence[str],
        accepted_counts: Callable[[], np.ndarray],
    ) -> np.ndarray | None:
        """Before vLLM updates the batch, whose rows are still ``req_ids``, those of the last step.

        ``accepted_counts`` returns what each of these rows kept, int, on the host. It may wait for
        the last step, so it is only called if some row is not in this one. Returns what it
        returned, or None.
        """
        accepted = None
        scheduled = scheduler_output.num_scheduled_tokens.keys()
        leaving = [(row, req_id) for row, req_id in enumerate(req_ids) if req_id not in scheduled]
        if leaving:
            accepted = accepted_counts()
            self.waiting.update((req_id, int(accepted[row])) for row, req_id in leaving)
        cleanup_mamba_state_idx(scheduler_output, self.waiting)  # those have no state any more
        self.returned = {
            req_id: self.waiting.pop(req_id) for req_id in self.waiting.keys() & scheduled
        }
        return accepted

    def restore(self, accepted: np.ndarray, rows: Mapping[str, int]) -> None:
        """Write the counts of those that came back to their ``rows`` of ``accepted``, in place."""
        for req_id, count in self.returned.items():
            accepted[rows[req_id]] = count

    def replace_draft_placeholders(self, batch: InputBatch) -> None:
        """Let those that came back verify token 0 where vLLM gives them no draft.

        Its asynchronous scheduler names every draft -1, and the runner puts what the last step
        drafted in its place (_prepare_input_ids in v1/worker/gpu_model_runner.py, 0.23.0), but for
        requests that were not in that step: a -1 is no row of an embedding, and ends the engine on
        CUDA (vllm-project/vllm#37159). Whatever is verified, the answer is the same.
        """
        for req_id in self.returned:
            row = batch.req_id_to_index[req_id]
            start = batch.num_tokens_no_spec[row]
            drafts = batch.token_ids_cpu[row, start : start + len(batch.spec_token_ids[row])]
            drafts[drafts < 0] = 0


class LeftOutRequestsMixin(Base):
    """Put it before a vLLM model runner in the bases."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.left_out = LeftOutRequests()
        super().__init__(*args, **kwargs)

    def _update_states(self, scheduler_output: SchedulerOutput) -> Any:
        if self.speculative_config is None:
            return super()._update_states(scheduler_output)
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
