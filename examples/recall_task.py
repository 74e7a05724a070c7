# SPDX-License-Identifier: Apache-2.0
"""A recall task with checkable answers: follow a chain of words through a long story.

A story binds words to words in sentences, `` bade bafo.``: `bade` now leads to `bafo`. A word may
be bound again; only its last binding counts. Between the sentences stands filler, and words of the
task mentioned without a full stop, which bind nothing. The question ``? bade`` asks for all words
that follow, one binding after another, up to a last word, which leads nowhere:

    biri bade bafo. bigo bafo bawu. bife bafo bebe. biki? bade   ->   bafo bebe<|im_end|>

Words on the way begin with "ba", last words with "be", filler with "bi" (``tiny_tokenizer.word``).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tiny_tokenizer import SPECIAL_TOKENS, SYLLABLES, TOKEN_IDS

VOCABULARY = 512
_FIRST_WORD = len(SPECIAL_TOKENS) + 256
KEYS = range(_FIRST_WORD, _FIRST_WORD + 24)
LAST_WORDS = range(_FIRST_WORD + len(SYLLABLES), _FIRST_WORD + len(SYLLABLES) + 24)
FILLER = range(_FIRST_WORD + 2 * len(SYLLABLES), VOCABULARY)
# The tokenizer's bytes stand in the order of ByteLevel's alphabet, which begins with "!".
FULL_STOP = len(SPECIAL_TOKENS) + ord(".") - ord("!")
QUESTION_MARK = len(SPECIAL_TOKENS) + ord("?") - ord("!")
END = TOKEN_IDS["eos_token_id"]

SHORTEST = 8
LONGEST_ANSWER = 19
"""In tokens, END included."""
HELD_OUT_SEED = 1_000_000
"""Seeds from here on are for tests and benchmarks; training stays below."""
_WORDS = np.array([*KEYS, *LAST_WORDS])
_MENTION = 0.1  # share of filler that is a word of the task


@dataclass(frozen=True)
class Recall:
    """One prompt and its only right answer, as token ids."""

    prompt: list[int]
    answer: list[int]
    """Ends with END."""


@dataclass(frozen=True)
class Story:
    """Sentences and filler, and every chain that can be asked for."""

    tokens: list[int]
    chains: list[list[int]]
    """Each begins with the word to ask for and ends with a last word; no word is in two."""


def tell(rng: np.random.Generator, length: int) -> Story:
    """A story of exactly ``length`` tokens, at least SHORTEST - 2."""
    sentences = int(rng.integers(max(1, length // 12), max(2, length // 5) + 1))
    bound = min(len(KEYS), max(1, round(sentences * rng.uniform(0.3, 1.0))))
    keys = rng.choice(KEYS, bound, replace=False).tolist()
    chains = []
    while keys:
        steps = int(rng.integers(1, LONGEST_ANSWER))
        chains.append([*keys[:steps], int(rng.integers(LAST_WORDS.start, LAST_WORDS.stop))])
        keys = keys[steps:]
    final = {key: value for chain in chains for key, value in pairwise(chain)}
    # Every key at least once; its last binding is the one on its chain.
    subjects = rng.permutation(
        [*final, *rng.choice(list(final), sentences - bound).tolist()]
    ).tolist()
    values = rng.choice(_WORDS, sentences).tolist()
    for i, key in reversed(list(enumerate(subjects))):
        values[i] = final.pop(key, values[i])
    gaps = rng.multinomial(
        length - 3 * sentences, rng.dirichlet(np.full(sentences + 1, 0.5))
    ).tolist()
    filler = np.where(
        rng.random(length) < _MENTION,
        rng.choice(_WORDS, length),
        rng.integers(FILLER.start, FILLER.stop, length),
    ).tolist()
    tokens = [filler.pop() for _ in range(gaps[0])]
    for key, value, gap in zip(subjects, values, gaps[1:], strict=True):
        tokens += [key, value, FULL_STOP, *(filler.pop() for _ in range(gap))]
    return Story(tokens, chains)


def recall(seed: int, length: int) -> Recall:
    """The prompt of ``length`` tokens that belongs to ``seed``: a story and one question."""
    if length < SHORTEST:
        raise ValueError(f"length = {length}: give {SHORTEST} or more tokens")
    rng = np.random.default_rng([seed, length])
    story = tell(rng, length - 2)
    start, *answer = max(story.chains, key=len)
    return Recall([*story.tokens, QUESTION_MARK, start], [*answer, END])


def held_out(count: int, lengths: tuple[int, ...], seed: int = 0) -> list[Recall]:
    """``count`` prompts of each length, which training never sees."""
    return [recall(HELD_OUT_SEED + seed + i, length) for length in lengths for i in range(count)]
