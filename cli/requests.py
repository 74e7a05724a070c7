# SPDX-License-Identifier: Apache-2.0
"""A made-up step, from a few words."""

from __future__ import annotations

import re

from ascend_gdn.attention.step_record import StepRecord
from ascend_gdn.attention.table_layout import TableLayout, cumsum_block_size

_REQUESTS = re.compile(r"(?:(\d+)x)?(\d+)(?:@(\d+))?(?:\+(\d+))?(?:/(\d+))?")
"""[COUNTx]TOKENS[@COMPUTED][+DRAFTS][/KEPT]"""


def record_of(
    words: list[str], groups: int, value_heads: int, max_seqs: int, max_tokens: int
) -> StepRecord:
    """The record of a step of such requests, each with state blocks of its own.

    Args:
        words: Requests as ``_REQUESTS`` has them: tokens in the step, tokens computed before, draft
            tokens among them, and tokens kept of the last step's.
        groups: KV cache groups of GDN layers.
        value_heads: Of a rank.
        max_seqs: Most requests that a step may have.
        max_tokens: Most tokens.

    Raises:
        ValueError: A word is none, or the step is larger than that.
    """
    lengths, computed, drafts, kept = [], [], [], []
    for word in words:
        parts = _REQUESTS.fullmatch(word)
        if parts is None:
            raise ValueError(
                f"got {word!r}, expected [COUNTx]TOKENS[@COMPUTED][+DRAFTS][/KEPT], such as 512, "
                "16x512, 1@700 or 4@700+3/2"
            )
        count, tokens, before, own_drafts, own_kept = parts.groups()
        if own_drafts and int(tokens) != int(own_drafts) + 1:
            raise ValueError(
                f"got {word!r}: {tokens} tokens with {own_drafts} drafts, expected one token more "
                "than drafts"
            )
        times = int(count or 1)
        lengths += [int(tokens)] * times
        computed += [int(before or 0)] * times
        drafts += [int(own_drafts) if own_drafts else -1] * times
        kept += [int(own_kept or 1)] * times
    if len(lengths) > max_seqs or sum(lengths) > max_tokens:
        raise ValueError(
            f"got {len(lengths)} requests and {sum(lengths)} tokens, expected at most {max_seqs} "
            f"and {max_tokens}; raise --max-num-seqs or --max-num-batched-tokens"
        )
    num_spec = max([0, *drafts, *(count - 1 for count in kept)])
    starts = [sum(lengths[:row]) for row in range(len(lengths) + 1)]
    width, rows = num_spec + 1, range(len(lengths))
    block = iter(range(1, 1 + groups * len(lengths) * width))
    return StepRecord(
        layout=TableLayout(
            max_seqs=max_seqs,
            max_tokens=max_tokens,
            num_groups=groups,
            cumsum_block=cumsum_block_size(value_heads),
            num_spec=num_spec,
        ),
        query_start_loc=starts,
        seq_lens=[length + before for length, before in zip(lengths, computed, strict=True)],
        blocks=[[[next(block) for _ in range(width)] for _ in rows] for _ in range(groups)],
        state_columns=[0] * len(lengths),
        num_accepted_tokens=kept if num_spec else None,
        draft_tokens=drafts if max(drafts) > 0 else None,
    )
