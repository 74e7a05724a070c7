# SPDX-License-Identifier: Apache-2.0
"""``allowed_token_ids`` of one request bind another, or are lost, when rows of the batch move.

The mask of allowed tokens has a row for each row of the batch (v1/worker/gpu_input_batch.py).
``condense`` moves a row down and leaves what was there, line 794: the next request to come to that
row, if it allows all tokens, inherits it. ``swap_states`` swaps two rows of a tensor by assigning
views of it, line 669: both are then the second one's. Tokens are wrong, silently; under a grammar
that shares no token with the mask the request ends with an error.

Versions: vLLM 0.23.0, 0.30.0. Delete when ``condense`` clears the row that it leaves, and
``swap_states`` copies one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping

from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch


def write_allowed_tokens(batch: InputBatch, requests: Mapping[str, CachedRequestState]) -> None:
    """Write every row of the mask anew, from all of the batch's requests by id.

    Call it when vLLM has put the rows in their final places, and made new sampling metadata, which
    refer to the mask.
    """
    if batch.no_allowed_token_ids:
        return
    host = batch.allowed_token_ids_mask_cpu_tensor
    host[: batch.num_reqs] = False  # True is masked
    for req_id in batch.has_allowed_token_ids:
        row = host[batch.req_id_to_index[req_id]]
        row.fill_(True)
        row[requests[req_id].sampling_params.allowed_token_ids] = False
    batch.allowed_token_ids_mask[: batch.num_reqs].copy_(host[: batch.num_reqs])
