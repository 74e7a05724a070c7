# SPDX-License-Identifier: Apache-2.0
"""The rejection sampler cannot draw at random on CPU.

v1/sample/rejection_sampler.py passes ``USE_FP64_GUMBEL``, a parameter that
``_sample_recovered_tokens_kernel_impl`` in utils/cpu_triton_utils.py lacks. A warm-up with drafts,
and the first request that is not greedy, end the engine.

Versions: vLLM 0.23.0; 0.30.0's function takes the parameter, but is not called
(``cpu_draft_kernels.py``). Delete with that file and 0.23.0.
"""

from __future__ import annotations

import torch
from vllm.v1.sample.metadata import SamplingMetadata

from ascend_gdn.runner.upstream.cpu_sampling import CPUSamplingMixin


class NoRandomDraftsMixin(CPUSamplingMixin):
    """Put it before vLLM's CPU model runner in the bases."""

    def has_no_answer(self, metadata: SamplingMetadata) -> bool:
        return not metadata.all_greedy or super().has_no_answer(metadata)

    def _dummy_sampler_run(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # The warm-up's speculative half samples at random.
        speculative_config, self.speculative_config = self.speculative_config, None
        try:
            return super()._dummy_sampler_run(hidden_states)
        finally:
            self.speculative_config = speculative_config
