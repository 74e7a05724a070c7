# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace

from ascend_gdn.runner.upstream.unknown_prompt_tokens import replace_unknown_prompt_tokens


def test_only_ids_without_an_embedding_are_replaced():
    prompts = [[3, 511], [7, 512, 10**6, 5], [], None]
    requests = [
        SimpleNamespace(prompt_token_ids=prompt, req_id=str(number))
        for number, prompt in enumerate(prompts)
    ]
    replace_unknown_prompt_tokens(requests, 512)
    assert [each.prompt_token_ids for each in requests] == [[3, 511], [7, 0, 0, 5], [], None]
    assert prompts[1] == [7, 512, 10**6, 5]  # the scheduler's own
