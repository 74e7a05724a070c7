# SPDX-License-Identifier: Apache-2.0
"""Over vLLM's own batch, whose rows are removed, filled, moved and swapped."""

from __future__ import annotations

import torch
from vllm import SamplingParams
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

from ascend_gdn.runner.upstream.allowed_tokens import write_allowed_tokens
from upstream_calls import known

VOCABULARY = 10


class Requests:
    def __init__(self, allowed: dict[str, list[int] | None]) -> None:
        self.allowed = allowed
        self.batch = known(
            InputBatch,
            max_num_reqs=8,
            max_model_len=16,
            max_num_batched_tokens=16,
            device=torch.device("cpu"),
            pin_memory=False,
            vocab_size=VOCABULARY,
            block_sizes=[4],
            kernel_block_sizes=[4],
            max_num_blocks_per_req=[4],
        )
        self.states = {
            name: CachedRequestState(
                name, [1], [], SamplingParams(allowed_token_ids=ids), None, ([0],), 0, []
            )
            for name, ids in allowed.items()
        }  # fmt: skip
        for state in self.states.values():
            self.batch.add_request(state)
        self.batch.refresh_metadata()

    def wrong(self) -> list[str]:
        """Requests whose row of the mask is not theirs."""
        mask = self.batch.sampling_metadata.allowed_token_ids_mask
        return [
            name
            for row, name in enumerate(self.batch.req_ids)
            if (~mask[row]).nonzero().flatten().tolist()
            != (self.allowed[name] or list(range(VOCABULARY)))
        ]


def condensed() -> Requests:
    """The last row moves to the first, and a request that allows all comes to where it was."""
    requests = Requests({"a": None, "b": [1, 2], "c": [3]})
    requests.batch.remove_request("a")
    requests.batch.condense()
    requests.batch.refresh_metadata()
    requests.allowed["d"] = None
    requests.states["d"] = CachedRequestState("d", [1], [], SamplingParams(), None, ([0],), 0, [])
    requests.batch.add_request(requests.states["d"])
    requests.batch.refresh_metadata()
    return requests


def swapped() -> Requests:
    requests = Requests({"a": [1, 2], "b": [3], "c": None})
    requests.batch.swap_states(0, 1)
    requests.batch.refresh_metadata()
    return requests


def test_every_row_is_its_own_requests():
    for requests in (condensed(), swapped()):
        write_allowed_tokens(requests.batch, requests.states)
        assert requests.wrong() == []


def test_upstream_mixes_them_up():
    # Fails when the correction can go.
    assert condensed().wrong() == ["d"]
    assert swapped().wrong() == ["a"]


def test_nothing_is_written_where_all_allow_all():
    requests = Requests({"a": None})
    write_allowed_tokens(requests.batch, requests.states)
    assert requests.batch.sampling_metadata.allowed_token_ids_mask is None
