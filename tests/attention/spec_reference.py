# SPDX-License-Identifier: Apache-2.0
"""What the recurrent operator of vLLM-Ascend takes, one request at a time."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class RecurrentArguments:
    """What the recurrent operator must be given for some speculative requests."""

    state_indices: list[int] = field(default_factory=list)
    start_tokens: list[int] = field(default_factory=list)
    moves: list[tuple[int, int]] = field(default_factory=list)


def recurrent_arguments(
    blocks: list[list[int]], lengths: list[int], accepted: list[int]
) -> RecurrentArguments:
    """A request at a time: its state is in the block of the last token that it kept."""
    arguments = RecurrentArguments()
    for own_blocks, length, kept in zip(blocks, lengths, accepted, strict=True):
        arguments.state_indices += own_blocks[:length]
        if kept <= length:
            arguments.start_tokens.append(kept)
        else:
            arguments.start_tokens.append(1)
            arguments.moves.append((own_blocks[kept - 1], own_blocks[0]))
    return arguments
