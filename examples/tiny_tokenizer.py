# SPDX-License-Identifier: Apache-2.0
"""A local tokenizer of any vocabulary size: every byte, and one token for each made-up word."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT, IM_START, IM_END = SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
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
    entries += ["\u0120" + word(i) for i in range(vocab_size - len(entries))]  # U+0120: a space
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
