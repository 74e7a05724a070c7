# SPDX-License-Identifier: Apache-2.0
"""A local tokenizer of any vocabulary size: every byte, and one token for each made-up word."""

from collections.abc import Iterator
from itertools import islice

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3_5Tokenizer

END_OF_TEXT, IM_START, IM_END = SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOKEN_IDS = {
    "pad_token_id": SPECIAL_TOKENS.index(END_OF_TEXT),
    "bos_token_id": SPECIAL_TOKENS.index(END_OF_TEXT),
    "eos_token_id": SPECIAL_TOKENS.index(IM_END),
}
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SPACE = "\u0120"  # as byte-level vocabularies write it
SYLLABLES = tuple(c + v for c in "bdfghjklmnprstvwyz" for v in "aeiou")
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256 + 1
LARGEST_VOCABULARY = len(SPECIAL_TOKENS) + 256 + len(SYLLABLES) ** 2
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def word(index: int) -> str:
    """The ``index``-th made-up word; with a space before it, it is exactly one token."""
    return SYLLABLES[index // len(SYLLABLES)] + SYLLABLES[index % len(SYLLABLES)]


def tiny_tokenizer(vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Ids: the special tokens first, then the 256 bytes, then words up to ``vocab_size``."""
    entries = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    entries += [SPACE + word(i) for i in range(vocab_size - len(entries))]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    # ignore_merges takes a whole word that is in the vocabulary; without merges all else is bytes.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=END_OF_TEXT,
        eos_token=IM_END,
        additional_special_tokens=[IM_START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def tiny_qwen3_5_tokenizer(vocab_size: int, max_length: int) -> Qwen3_5Tokenizer:
    """As ``tiny_tokenizer``, with the vision tokens, and parts of words among the words.

    transformers 5.23 loads a Qwen3.5's tokenizer as this class, whatever the files say
    (``MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS`` in its models/auto/tokenization_auto.py), and
    this class finds words by merges alone.
    """
    entries = [*SPECIAL_TOKENS, *VISION_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = list(islice(word_merges(), vocab_size - len(entries)))
    entries += ["".join(merge) for merge in merges]
    return Qwen3_5Tokenizer(
        vocab={entry: index for index, entry in enumerate(entries)},
        merges=merges,  # type: ignore[arg-type]  # annotated as strings, taken as pairs
        pad_token=END_OF_TEXT,
        eos_token=IM_END,
        additional_special_tokens=[IM_START, *VISION_TOKENS],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def word_merges() -> Iterator[tuple[str, str]]:
    """Merges that make one word after another, each when its two parts are there."""
    made = set()
    for first in SYLLABLES:
        for second in SYLLABLES:
            for merge in (
                (first[0], first[1]),
                (second[0], second[1]),
                (SPACE, first),
                (SPACE + first, second),
            ):
                if merge not in made:
                    made.add(merge)
                    yield merge
