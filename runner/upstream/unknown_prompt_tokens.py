# SPDX-License-Identifier: Apache-2.0
"""A prompt with the first token past the vocabulary ends the engine.

The front end refuses token ids above ``max(tokenizer.max_token_id, vocabulary - 1)``
(v1/engine/input_processor.py:466). But ``max_token_id`` is the tokenizer's ``vocab_size`` if that
is more than its largest id (tokenizers/hf.py:126), one too many, and a tokenizer may have more
tokens than the model. Such an id is an IndexError in the embedding on CPU and a device assertion on
an accelerator: the engine core dies with every request.

A worker cannot refuse one request, so it reads another token in its place and says so in the log.

Versions: vLLM 0.23.0, 0.30.0. Delete when the front end refuses every id that the model has no
embedding for.
"""

from __future__ import annotations

from collections.abc import Iterable

from vllm.logger import init_logger
from vllm.v1.core.sched.output import NewRequestData

READ_INSTEAD = 0
logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers


def replace_unknown_prompt_tokens(requests: Iterable[NewRequestData], vocab_size: int) -> None:
    """Give each request with a token id of ``vocab_size`` or more a prompt without.

    The list itself is left as it is: in process it is the scheduler's too.
    """
    for request in requests:
        prompt = request.prompt_token_ids
        if prompt is not None and max(prompt, default=0) >= vocab_size:
            logger.warning(
                "ascend-gdn: got token id %d in the prompt of request %s, expected less than %d, "
                "the model's vocabulary; token %d is read in its place. Check that the client uses "
                "this model's tokenizer.",
                max(prompt), request.req_id, vocab_size, READ_INSTEAD,
            )  # fmt: skip
            request.prompt_token_ids = [
                token if token < vocab_size else READ_INSTEAD for token in prompt
            ]
