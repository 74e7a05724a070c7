# SPDX-License-Identifier: Apache-2.0
"""A prompt of one token beside requests that verify drafts goes on from a stranger's state.

vLLM's scheduler pads such a request with drafts that nobody made, so that all rows of the step have
as many tokens (``pad_spec_decode`` in v1/core/sched/scheduler.py:1044). vLLM's runner then takes it
for one that verifies drafts (v1/worker/gpu_model_runner.py:2269), and its GDN layers for one that
has a state: what the last owner of its block left there. vLLM-Ascend's takes it for a longer prompt
(worker/model_runner_v1.py:1662), whose state has the drafts in it. Its tokens are wrong, silently.

Here it verifies drafts, from a block that is emptied: all of them are rejected, so the state after
its first token is what counts.

Versions: vLLM 0.30.0, and vllm-ascend 0.30.0rc2 over it. Delete when the scheduler pads no request
without computed tokens, or the builder takes one for a prefill.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput

from ascend_gdn.runner.base import Base
from ascend_gdn.runner.upstream.gdn_states import states_by_group


def padded_prompts(scheduler_output: SchedulerOutput) -> Iterator[str]:
    """The requests of the step that have drafts to verify, and no computed tokens."""
    drafts = scheduler_output.scheduled_spec_decode_tokens
    if not drafts:
        return
    for new in scheduler_output.scheduled_new_reqs:
        if new.num_computed_tokens == 0 and new.req_id in drafts:
            yield new.req_id
    cached = scheduler_output.scheduled_cached_reqs
    for req_id, computed in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
        if computed == 0 and req_id in drafts:
            yield req_id


class PaddedPromptsMixin(Base):
    """Put it before a vLLM model runner in the bases."""

    def _prepare_inputs(self, scheduler_output: SchedulerOutput, *args: Any, **kwargs: Any) -> Any:
        padded = list(padded_prompts(scheduler_output))
        for req_id in padded:
            self.empty_first_states(self.requests[req_id].block_ids)
        prepared = super()._prepare_inputs(scheduler_output, *args, **kwargs)
        for req_id in padded:
            drafts = len(scheduler_output.scheduled_spec_decode_tokens[req_id])
            self.num_decode_draft_tokens.np[self.input_batch.req_id_to_index[req_id]] = drafts
        return prepared

    def empty_first_states(self, block_ids: tuple[list[int], ...]) -> None:
        """Write zeros to the first block of each GDN group, in all of its layers."""
        layers = self.compilation_config.static_forward_context
        copy_funcs = self.model.get_mamba_state_copy_func()
        groups = states_by_group(self.kv_cache_config, layers, copy_funcs)
        for group, states in groups.items():
            block = block_ids[group][0]
            for windows, recurrent in states:
                windows[block] = recurrent[block] = 0
