# SPDX-License-Identifier: Apache-2.0
"""A decode graph is replayed for a batch in which some request prefills.

vLLM takes any batch of equally many tokens a request for decodes
(``_determine_batch_execution_and_padding`` in v1/worker/gpu_model_runner.py): prompts of one token,
or a last chunk of num_spec + 1, also of a request that was preempted and is computed again. A
decode graph has no prefill: their states do not move.

Versions: vLLM 0.23.0 (its V1 runner to 0.33), vllm-ascend 0.23.0 and 0.23.0.post1. Delete when
the runner asks whether a request is still in its prompt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from vllm.v1.core.sched.output import SchedulerOutput

from ascend_gdn.runner.base import Base


class PrefillsNeedNoGraphMixin(Base):
    """Put it before a vLLM model runner in the bases."""

    num_drafting = 0
    """Requests of the step that verify drafts."""

    def _update_states(self, scheduler_output: SchedulerOutput) -> Any:
        self.num_drafting = len(scheduler_output.scheduled_spec_decode_tokens)
        return super()._update_states(scheduler_output)

    def _determine_batch_execution_and_padding(
        self,
        num_tokens: int,
        num_reqs: int,
        num_scheduled_tokens_np: np.ndarray,
        *args: Any,
        force_uniform_decode: bool | None = None,
        **kwargs: Any,
    ) -> Any:
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
