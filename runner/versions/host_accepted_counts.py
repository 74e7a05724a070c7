# SPDX-License-Identifier: Apache-2.0
"""Asynchronous scheduling from vLLM 0.30.0 on: the host's counts of kept tokens are all 1.

``_prepare_inputs`` (v1/worker/gpu_model_runner.py:2146) brings what each request kept of its last
step to this step's rows on the device alone, and fills the host's buffer with 1, unless prefix
caching needs it. A step is planned on the host: with those, requests that verify drafts would go on
from the wrong one of their states, silently. What ``_update_states_after_model_execute`` copied to
the host, line 1628, is taken here, as vLLM 0.23.0 itself did: it waits for the last step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ascend_gdn.runner.base import Base


class HostAcceptedCountsMixin(Base):
    """Put it right before a vLLM model runner in the bases."""

    def _prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_inputs(*args, **kwargs)
        asynchronous = self.speculative_config is not None and self.use_async_scheduling
        if asynchronous and self.cache_config.mamba_cache_mode != "align":
            self.num_accepted_tokens_event.synchronize()
            batch = self.input_batch
            counts = batch.num_accepted_tokens_cpu[: batch.num_reqs]
            if batch.prev_req_id_to_index:  # else they were moved with their rows
                before = self.prev_positions.np[: batch.num_reqs]  # row in it, -1 for none
                counts[:] = np.where(before < 0, 1, batch.num_accepted_tokens_cpu[before])
            self.num_accepted_tokens.np[: batch.num_reqs] = counts
        return prepared
