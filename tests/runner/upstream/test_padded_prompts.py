# SPDX-License-Identifier: Apache-2.0
"""A one-token prompt that vLLM's scheduler pads with drafts starts from an empty state."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from vllm.v1.kv_cache_interface import MambaSpec

from ascend_gdn.runner.upstream.padded_prompts import PaddedPromptsMixin, padded_prompts
from upstream_calls import COPY_FUNCS

GDN = MambaSpec(
    shapes=((6, 1), (1,)), dtypes=(torch.float32, torch.float32), block_size=64,
    num_speculative_blocks=3,
)  # fmt: skip


def step(new: dict[str, int], cached: dict[str, int], drafting: list[str]) -> SimpleNamespace:
    """``new`` and ``cached``: the computed tokens of each request."""
    return SimpleNamespace(
        scheduled_spec_decode_tokens={name: [-1] * 3 for name in drafting},
        scheduled_new_reqs=[
            SimpleNamespace(req_id=name, num_computed_tokens=count) for name, count in new.items()
        ],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(cached), num_computed_tokens=list(cached.values())
        ),
    )


@pytest.mark.parametrize(
    ("new", "cached", "drafting", "expected"),
    [
        ({"a": 0}, {"b": 9}, ["b"], []),
        ({"a": 0}, {"b": 9}, ["a", "b"], ["a"]),
        ({"a": 64}, {"b": 9}, ["a", "b"], []),  # all but its last token were in the cache
        ({"a": 0}, {"b": 0}, ["a", "b"], ["a", "b"]),  # preempted before its first token
        ({"a": 0}, {"b": 0}, [], []),
    ],
)
def test_which_are_meant(new, cached, drafting, expected):
    assert list(padded_prompts(step(new, cached, drafting))) == expected


class VllmRunner(SimpleNamespace):
    def _prepare_inputs(self, *_: object) -> str:
        return "vLLM's"


class Runner(PaddedPromptsMixin, VllmRunner):
    """With a GDN layer in the groups 0 and 2; attention's is group 1."""

    def __init__(self) -> None:
        states = {
            name: (torch.full((9, 6, 1), 7.0), torch.full((9, 1), 7.0)) for name in ("x", "y", "z")
        }
        specs = ((["x", "y"], GDN), (["attention"], object()), (["z"], GDN))
        super().__init__(
            states=states,
            input_batch=SimpleNamespace(req_id_to_index={"b": 0, "a": 1}),
            num_decode_draft_tokens=SimpleNamespace(np=[3, -1]),
            requests={"a": SimpleNamespace(block_ids=([2, 3, 4, 5], [2], [6, 7, 8, 1]))},
            model=SimpleNamespace(get_mamba_state_copy_func=lambda: COPY_FUNCS),
            kv_cache_config=SimpleNamespace(
                kv_cache_groups=[
                    SimpleNamespace(layer_names=names, kv_cache_spec=spec) for names, spec in specs
                ]
            ),
            compilation_config=SimpleNamespace(
                static_forward_context={
                    name: SimpleNamespace(kv_cache=state) for name, state in states.items()
                }
            ),
        )

    def emptied(self) -> dict[str, list[list[int]]]:
        return {
            name: [(each == 0).flatten(1).all(1).nonzero().flatten().tolist() for each in state]
            for name, state in self.states.items()
        }


@pytest.mark.parametrize(
    ("drafting", "expected"),
    [
        (["a"], {"x": [[2], [2]], "y": [[2], [2]], "z": [[6], [6]]}),
        (["b"], {"x": [[], []], "y": [[], []], "z": [[], []]}),
    ],
)
def test_their_first_blocks_are_emptied_and_no_other(drafting, expected):
    runner = Runner()
    assert runner._prepare_inputs(step({"a": 0}, {"b": 9}, drafting), None) == "vLLM's"
    assert runner.emptied() == expected
    assert runner.num_decode_draft_tokens.np == [3, 3 if "a" in drafting else -1]
