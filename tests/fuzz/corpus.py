# SPDX-License-Identifier: Apache-2.0
"""Sequences that once failed, or that come by a rare branch: replayed by ``test_corpus.py``."""

from __future__ import annotations

from typing import NamedTuple

from .model import Config
from .world import Action


class Sequence(NamedTuple):
    name: str
    config: Config
    actions: list[Action]


SEQUENCES = [
    # Failed.
    Sequence(
        "another request under the name of one that was aborted, counts late",
        Config(num_spec=3, asynchronous=True),
        [
            ("arrive", 17),
            ("step", [[17, 1]]),
            ("step", [[4, 3]]),
            ("abort", 0),
            ("arrive", 1),
            ("step", [[1, 1]]),
        ],
    ),
    Sequence(
        "a reset of the prefix cache, counts late",
        Config(num_spec=3, asynchronous=True),
        [
            ("arrive", 17),
            ("step", [[17, 1]]),
            ("step", [[4, 3]]),
            ("preempt", 0, True),
            ("step", [[1, 1]]),
        ],
    ),
    Sequence(
        "an answer computed again falls behind the decodes, counts early",
        Config(num_spec=3, asynchronous=True),
        [
            ("arrive", 1),
            ("arrive", 1),
            ("step", [[1, 1], [1, 1]]),
            ("step", [[4, 4], [4, 4]]),
            ("step", [[4, 4], [4, 4]]),
            ("step", [[4, 4], [4, 4]]),
            ("preempt", 0, False),
            ("step", [[0, 1], [4, 2]]),
            ("step", [[5, 1], [0, 1]]),
            ("step", [[3, 1], [4, 4]], False, True),
            ("step", [[5, 1], [4, 1]]),
        ],
    ),
    # Rare.
    Sequence(
        "all drafts are lost, then only some",
        Config(num_spec=3, groups=3),
        [
            ("arrive", 5),
            ("arrive", 70),
            ("step", [[5, 1], [70, 1]]),
            ("step", [[4, 4], [4, 2]]),
            ("step", [[1, 1], [1, 1]]),
            ("step", [[4, 3], [4, 4]]),
            ("step", [[1, 1], [2, 2]]),
            ("arrive", 1),
            ("step", [[4, 1], [1, 1], [1, 1]]),
        ],
    ),
    Sequence(
        "graphs are padded after larger steps, and prompts of one token need none",
        Config(max_seqs=6, full_graph=True, slots="device"),
        [
            *[("arrive", 2)] * 6,
            ("step", [[2, 1]] * 6),
            ("step", [[1, 1]] * 6),
            ("step", [[1, 1]] * 3, True),
            ("step", [[1, 1]] * 5),
            ("dummy", [1, 1, 1], 0, True),
            ("step", [[1, 1]]),
            ("abort", 0),
            ("arrive", 1),
            ("step", [[1, 1]] * 6),
        ],
    ),
    Sequence(
        "a graph of drafts, and a last chunk of as many tokens",
        Config(num_spec=2, full_graph=True, groups=3),
        [
            ("arrive", 6),
            ("arrive", 6),
            ("step", [[6, 1], [3, 1]]),
            ("step", [[3, 2], [3, 1]]),
            ("step", [[3, 3], [3, 1]]),
            ("dummy", [3, 3, 3, 3], 0, True),
            ("step", [[3, 1]]),
            ("step", [[3, 1], [3, 1]]),
        ],
    ),
    Sequence(
        "a rank without tokens of any prompt",
        Config(ranks=4, rank=3, groups=2),
        [
            ("arrive", 2),
            ("arrive", 9),
            ("step", [[2, 1]]),
            ("step", [[1, 1], [7, 1]]),
            ("step", [[1, 1], [2, 1]]),
            ("arrive", 3),
            ("step", [[1, 1], [1, 1], [3, 1]]),
        ],
    ),
    Sequence(
        "states move to later blocks, with drafts beside prompts of several blocks",
        Config(num_spec=2, block_size=16, max_seqs=3, slots="kernel"),
        [
            ("arrive", 40),
            ("arrive", 100),
            ("step", [[40, 1], [16, 1]]),
            ("step", [[3, 3], [70, 1]]),
            ("step", [[3, 3], [14, 1]]),
            ("step", [[3, 2], [3, 1]], True),
            ("preempt", 0, False),
            ("step", [[0, 1], [3, 3]]),
            ("step", [[48, 1], [3, 3]]),
        ],
    ),
    Sequence(
        "large blocks, a refused batch, a new KV cache",
        Config(max_tokens=2600, value_heads=4, max_seqs=2),
        [
            ("arrive", 1217),
            ("arrive", 1300),
            ("step", [[1217, 1], [1216, 1]]),
            ("over", True),
            ("over", False),
            ("step", [[1, 1], [84, 1]]),
            ("renew",),
            ("dummy", [0, 5, 0, 1], 9, False),
            ("arrive", 64),
            ("step", [[64, 1]]),
        ],
    ),
]
