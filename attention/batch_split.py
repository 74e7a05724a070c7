# SPDX-License-Identifier: Apache-2.0
"""Which requests of a step decode, which prefill: decided once per step, from host data alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(eq=False)  # not frozen: each step makes some, and frozen ones take four times as long
class Requests:
    """Some requests of a step, none without tokens."""

    rows: np.ndarray | slice
    """[n] int64: row of each request in the runner's batch; a slice where they are its first ones,
    and may be where they are another range: slices of numpy arrays take a tenth of the time that
    gathers do."""
    lengths: np.ndarray
    """[n] int32: tokens of each request in this step."""
    context_lens: np.ndarray
    """[n] int32: tokens of each request computed in earlier steps."""

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(eq=False)
class BatchSplit:
    """The requests of a step: D decodes, then N prefills; apart from them S speculative decodes.

    Requests without tokens (padding, idle ranks) are dropped here, before any table is made, so
    that every consumer counts sequences the same way.
    """

    non_spec: Requests
    """D + N requests, the decodes first."""
    num_decodes: int
    num_tokens: int
    """Of all requests."""
    spec: Requests | None = None
    """S requests that go on from one of several saved states; None without any."""
    spec_mask: np.ndarray | None = None
    """[R] bool over the runner's rows; None where ``spec`` is."""
    row_lengths: np.ndarray | None = None
    """[R] int32, tokens of each of these rows; None where ``spec`` is."""
    num_spec_tokens: int = 0
    num_prefills: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_prefills = len(self.non_spec) - self.num_decodes

    @property
    def spec_first(self) -> bool:
        """Whether speculative requests come before all others, so that their tokens do."""
        return self.spec is not None and isinstance(self.spec.rows, slice)

    def is_uniform(self, num_spec: int) -> bool:
        """Whether all that verify drafts were given ``num_spec`` of them."""
        return self.spec is None or self.num_spec_tokens == len(self.spec) * (num_spec + 1)

    @property
    def num_prefill_tokens(self) -> int:
        # A decode is one token, so the prefills have the rest.
        return self.num_tokens - self.num_decodes - self.num_spec_tokens


def split_batch(
    query_start_loc: np.ndarray,
    seq_lens: np.ndarray,
    draft_tokens: np.ndarray | None = None,
    num_accepted_tokens: np.ndarray | None = None,
    is_dummy: bool = False,
) -> BatchSplit:
    """Split a batch in the order that vLLM's runner gives it: decodes first.

    A request prefills if it has several tokens, or no earlier state to decode from: the first token
    of a one-token prompt must not read whatever its state block held before. Everything from the
    first such request on goes through the prefill kernels, which take one-token extends as well.
    Beside speculative requests nothing decodes: all the others are prefills, as in
    vllm/v1/attention/backends/gdn_attn.py (0.23.0).

    A request verifies drafts if it was given some. If it got none this time (the token budget or
    the model's length ran out) but kept several tokens of the step before, its state is in the
    block of the last token that it kept, and only the speculative kernels look there. vLLM 0.23.0
    decodes it from its first block, which holds an older state.

    Args:
        query_start_loc: [R + 1] int32, where each request's tokens start.
        seq_lens: [R] int32, tokens of each request, those of this step included.
        draft_tokens: [R] int32, draft tokens that each request verifies, negative for requests that
            do not speculate; None in a step without drafts.
        num_accepted_tokens: [>= R] integer, tokens that each request kept of its last step, 1 if
            that was no speculative one; None without speculative decoding.
        is_dummy: The rows are no requests. Those without earlier tokens are not fresh prompts.
    """
    lengths = query_start_loc[1:] - query_start_loc[:-1]
    num_tokens = int(query_start_loc[-1])
    context_lens = seq_lens - lengths
    all_have_tokens = np.count_nonzero(lengths) == len(lengths)
    spec_mask = _spec_mask(lengths, draft_tokens, num_accepted_tokens)
    if spec_mask is not None:
        count = int(np.count_nonzero(spec_mask))
        if all_have_tokens and np.count_nonzero(spec_mask[:count]) == count:
            spec = _range(0, count, lengths, context_lens)
            others = _range(count, len(lengths), lengths, context_lens)
            num_spec_tokens = int(query_start_loc[count])
        else:
            spec = _requests(spec_mask, lengths, context_lens)
            others = _requests(~spec_mask, lengths, context_lens)
            num_spec_tokens = int(np.add.reduce(spec.lengths))
        return BatchSplit(others, 0, num_tokens, spec, spec_mask, lengths, num_spec_tokens)
    if all_have_tokens:
        requests = Requests(slice(0, len(lengths)), lengths, context_lens)
    else:
        requests = _requests(True, lengths, context_lens)
    count = len(requests)
    if count == 0:
        return BatchSplit(requests, 0, num_tokens)
    if num_tokens == count == np.count_nonzero(requests.context_lens):
        return BatchSplit(requests, count, num_tokens)  # only decodes: spared what follows
    if requests.lengths[0] > 1:
        return BatchSplit(requests, 0, num_tokens)  # only prefills
    prefills = requests.lengths > 1
    if not is_dummy:
        prefills |= requests.context_lens == 0
    if not np.count_nonzero(prefills):
        return BatchSplit(requests, count, num_tokens)
    return BatchSplit(requests, int(prefills.argmax()), num_tokens)


def _spec_mask(
    lengths: np.ndarray, draft_tokens: np.ndarray | None, num_accepted_tokens: np.ndarray | None
) -> np.ndarray | None:
    """[R] bool: requests that verify drafts, or whose state is not in their first block."""
    mask = None
    # count_nonzero takes a fifth of the time that any() takes.
    if draft_tokens is not None and np.count_nonzero(draft_tokens > 0):
        mask = draft_tokens >= 0
    if num_accepted_tokens is not None:
        behind = (lengths == 1) & (num_accepted_tokens[: len(lengths)] > 1)
        if np.count_nonzero(behind):
            mask = behind if mask is None else mask | behind
    return mask


def _range(start: int, stop: int, lengths: np.ndarray, context_lens: np.ndarray) -> Requests:
    rows = slice(start, stop)
    return Requests(rows, lengths[rows], context_lens[rows])


def _requests(chosen: np.ndarray | bool, lengths: np.ndarray, context_lens: np.ndarray) -> Requests:
    """The chosen requests that have tokens."""
    rows = (chosen & (lengths > 0)).nonzero()[0]
    count = len(rows)
    if count and rows[-1] == count - 1:  # nothing but padding behind them, say
        return _range(0, count, lengths, context_lens)
    return Requests(rows, lengths[rows], context_lens[rows])
