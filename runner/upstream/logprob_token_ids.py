# SPDX-License-Identifier: Apache-2.0
"""A request for certain tokens' logprobs takes away those of the requests beside it.

``logprob_token_ids``, which the server's ``/generative_scoring`` sets: where some request of a
batch has them and another asks for ``logprobs``, all get the first kind of rows, so that the
other's hold its token, token 0 and -inf (``Sampler.forward``, v1/sample/sampler.py:132). With
drafts in the batch the rejection sampler expects rows of the vocabulary's length there: the engine
core dies of a shape mismatch (v1/sample/rejection_sampler.py:199).

Versions: vLLM 0.23.0, 0.30.0. Delete when ``Sampler.forward`` makes each row what its request asks
for, and the rejection sampler takes ``logprob_token_ids``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler


class LogprobTokenIdsSampler(Sampler):
    """vLLM's sampler; the rows beside such a request name their most likely tokens likewise.

    It has no answer for the rejection sampler: a step with such a request must go without drafts.
    """

    def forward(
        self, logits: torch.Tensor, sampling_metadata: SamplingMetadata, *args: Any, **kwargs: Any
    ) -> SamplerOutput:
        certain, most = sampling_metadata.logprob_token_ids, sampling_metadata.max_num_logprobs
        if certain and most is not None:
            likeliest = logits.topk(most).indices.tolist()
            every_row = dict(enumerate(likeliest)) | certain
            sampling_metadata = replace(sampling_metadata, logprob_token_ids=every_row)
        return super().forward(logits, sampling_metadata, *args, **kwargs)
