# SPDX-License-Identifier: Apache-2.0
"""``min_tokens`` with a stop token that is no token of the model ends the engine.

Until a request has its ``min_tokens``, vLLM masks its ``stop_token_ids`` in the logits by index
(``MinTokensLogitsProcessor``, v1/sample/logits_processor/builtin.py:237). No check compares them
with the vocabulary: one beyond it is an IndexError on CPU and a device assertion on an accelerator,
which ends the engine core with every request; a small negative one masks another token.

Versions: vLLM 0.23.0, 0.30.0. Delete when vLLM refuses such a request, or masks only tokens that
are there.
"""

from __future__ import annotations

from collections.abc import Iterable

from vllm.v1.core.sched.output import NewRequestData


def forget_unknown_stop_tokens(requests: Iterable[NewRequestData], vocab_size: int) -> None:
    """Take from each request's stop tokens those that the model cannot say: they stop nothing.

    Call it before the requests enter the batch, where the logits processors see them first.
    """
    for request in requests:
        if request.sampling_params is not None:
            stop_ids = request.sampling_params.all_stop_token_ids
            stop_ids -= {token for token in stop_ids if not 0 <= token < vocab_size}
