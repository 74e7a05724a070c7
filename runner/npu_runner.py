# SPDX-License-Identifier: Apache-2.0
"""vLLM-Ascend's model runner with the step, whatever the version: a mixin over it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ascend_gdn.runner.model_runner import WARM_UP_TOKENS, StepModelRunnerMixin


class StepNPUModelRunnerMixin(StepModelRunnerMixin):
    """Put it before ``NPUModelRunner`` in the bases."""

    def warm_up_prefill(self) -> None:
        """Run a prefill once, with the KV cache in place.

        vLLM-Ascend (0.23.0) has no GDN metadata in its profile run, and none but decodes' in what
        it captures: otherwise the first request waits for the Triton kernels of a prefill, and of
        slots in the KV cache.
        """
        # No size of a graph, whose decodes may have an operator of their own (pa_shape_list).
        tokens = min(WARM_UP_TOKENS - 1, self.max_num_tokens)
        bounds = torch.tensor([0, tokens], dtype=torch.int32, device=self.device)
        # Of a row without blocks. The dummy run then empties the slots.
        self.input_batch.block_table.compute_slot_mapping(1, bounds, self.positions[:tokens])
        # One request, as for the latency of prefills (profile_prefill_latency in worker/worker.py,
        # 0.23.0): otherwise every request of a dummy run has some tokens.
        self._dummy_run(tokens, force_attention=True, profile_cpp=True)

    def initialize_attn_backend(self, *args: Any, **kwargs: Any) -> None:
        # Where vLLM-Ascend makes the metadata builders (model_runner_v1.py, 0.23.0, 0.30.0rc2).
        super().initialize_attn_backend(*args, **kwargs)
        self.bind_gdn_builders()

    def last_accepted_counts(self) -> np.ndarray:
        counts = super().last_accepted_counts()
        # _update_states_after_model_execute (model_runner_v1.py, 0.23.0, 0.30.0rc2) copies them
        # there, and _prepare_inputs takes them from there: the host's are exact.
        return self.num_accepted_tokens.np if self.use_async_scheduling else counts
