# SPDX-License-Identifier: Apache-2.0
"""One GDN layer on several context-parallel ranks, against one token after the other.

Several steps each: a rank is given its part of each prompt as vLLM-Ascend's ``PCPManager`` cuts it,
and what the ranks put out is put together again. Ours, and vLLM-Ascend's own builder and layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize, softplus

from ascend_gdn.attention.context_parallel import ContextParallelBatch
from ascend_gdn.attention.errors import GDNContractError
from ascend_gdn.attention.stats import GDNStats
from ascend_gdn.attention.step import GDNSteps
from ascend_gdn.attention.step_inputs import StepInputs
from ascend_gdn.attention.table_layout import cumsum_block_size
from ascend_gdn.fla.ascend import chunk_o_update, context_parallel
from ascend_gdn.fla.ascend.context_parallel import ContextParallelGatedDeltaNetAttention
from both_sides import allocating_operators, ascend_workloads
from both_sides.ascend_layers import StockLayer, forward_context
from both_sides.lone_layers import PREFIX, WIDTH, Activations, LayerSizes, make_layer
from both_sides.workloads import CPU, Workload

from .conftest import NEXT
from .in_process_ranks import ranks
from .reference import convolution, delta_rule

if NEXT:  # tests/emulation/test_workers.py asserts that it refuses
    pytest.skip("vllm-ascend 0.30.0rc2 has no prefill context parallelism", allow_module_level=True)

from vllm_ascend.worker.pcp_utils import PCPManager

from .test_layer import on_meta, operators_without_data  # noqa: F401

SIZES = LayerSizes(key_heads=1, value_heads=2)
BLOCKS = 30
HISTORY = WIDTH - 1


@dataclass(frozen=True)
class Step:
    """What the scheduler takes of each request: requests that decode come first."""

    decodes: tuple[int, ...] = ()
    prefills: tuple[tuple[int, int], ...] = ()
    """(request, tokens)"""


def shares(length: int, size: int) -> list[int]:
    """As vLLM-Ascend's own manager cuts ``length`` tokens."""
    cut = PCPManager._get_cp_local_seq_lens(None, torch.tensor([length]), size, 1, 1)
    return cut[0, :, 0].tolist()


class OnRank:
    """What both sides' builders are told on one rank."""

    def prepare(self, group, whole: list[int], decodes: int, blocks: list[int], decoding) -> None:
        """``whole``: tokens of each request on all ranks; ``blocks``: of each, its state's."""
        self.whole, self.decodes, self.group = np.array(whole), decodes, group
        for table in self.batch.block_tables:
            table[: len(blocks), 0] = blocks
        self.batch.is_prefilling = ~torch.tensor(decoding)
        for builder in self.builders:
            config = builder.vllm_config
            config.model_config.hf_text_config.linear_num_value_heads = SIZES.value_heads
            config.parallel_config.prefill_context_parallel_size = group.world_size


class Theirs(OnRank, ascend_workloads.Theirs):
    layer_cls = StockLayer


class Ours(OnRank, ascend_workloads.Ours):
    layer_cls = ContextParallelGatedDeltaNetAttention

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        block = cumsum_block_size(SIZES.value_heads)
        layout = replace(
            self.steps.pool.layout, cumsum_block=block, conv_history=HISTORY, max_tokens=8192
        )
        self.steps = GDNSteps(layout, CPU, self._inputs, GDNStats())
        for group, builder in enumerate(self.builders):
            builder.bind(self.steps, group)

    def _inputs(self, idle: bool) -> StepInputs:
        rank = self.group.rank_in_group
        batch = ContextParallelBatch(self.whole, self.decodes, self.group.world_size, rank)
        return replace(super()._inputs(idle), context_parallel=batch)


class Requests:
    """Whole sequences of random inputs, and what is to come of them."""

    def __init__(self, lengths: list[int]) -> None:
        everything = Activations.of(SIZES, sum(lengths))
        bounds = np.cumsum([0, *lengths]).tolist()
        self.inputs = [
            Activations(*(t[start:end] for t in everything.arguments()))
            for start, end in pairwise(bounds)
        ]
        self.blocks = [1 + request * 7 % (BLOCKS - 1) for request in range(len(lengths))]

    def reference(self, layer, request: int, length: int):
        """Outputs [length, Hv, V], and the states after them, of one token after the other."""
        own = self.inputs[request]
        x = own.mixed_qkv[:length]
        past = torch.zeros(HISTORY, x.shape[1], dtype=x.dtype)
        history = torch.cat([past, x])[-HISTORY:]
        x = convolution(x, layer.conv1d.weight[:, 0].t(), past).to(torch.bfloat16)
        key_dim = SIZES.key_heads * SIZES.head_dim
        q, k = (
            normalize(part.float().unflatten(-1, (SIZES.key_heads, -1)), dim=-1).repeat_interleave(
                SIZES.value_heads // SIZES.key_heads, 1
            )
            for part in (x[:, :key_dim], x[:, key_dim : 2 * key_dim])
        )
        v = x[:, 2 * key_dim :].unflatten(-1, (SIZES.value_heads, -1))
        g = -layer.A_log.exp() * softplus(own.a[:length].float() + layer.dt_bias)
        beta = own.b[:length].float().sigmoid()
        state = torch.zeros(SIZES.value_heads, SIZES.head_dim, SIZES.head_dim)
        o, state = delta_rule(q, k, v, g, beta, state, SIZES.head_dim**-0.5)
        return o, history, state


class Run:
    """Some steps of some requests on all ranks."""

    def __init__(self, side_cls, size: int, steps: list[Step]) -> None:
        self.steps, self.size = steps, size
        self.count = 1 + max(r for s in steps for r in (*s.decodes, *(p[0] for p in s.prefills)))
        self.totals = [0] * self.count
        for step in steps:
            for request, tokens in self.rows(step):
                self.totals[request] += tokens
        self.requests = Requests(self.totals)
        # Blocks hold the random states of requests that had them before.
        self.layers = [make_layer(side_cls.layer_cls, SIZES, 0, BLOCKS) for _ in range(size)]
        shape = (SIZES.value_heads, SIZES.head_dim)
        self.outputs = [torch.full((total, *shape), 1e4).bfloat16() for total in self.totals]
        with ranks(size) as group:
            done = [0] * self.count
            for step in steps:
                self.run(side_cls, group, step, done)
                for request, tokens in self.rows(step):
                    done[request] += tokens
            self.gathered = group.gathered

    @staticmethod
    def rows(step: Step) -> list[tuple[int, int]]:
        return [(request, 1) for request in step.decodes] + list(step.prefills)

    def run(self, side_cls, group, step: Step, done: list[int]) -> None:
        rows = self.rows(step)
        parts = [
            [1] * self.size if i < len(step.decodes) else shares(tokens, self.size)
            for i, (_, tokens) in enumerate(rows)
        ]
        # Where a rank's part starts; a decode is the same on all ranks.
        first = [
            [done[request] + (0 if i < len(step.decodes) else sum(parts[i][:rank]))
             for i, (request, _) in enumerate(rows)]
            for rank in range(self.size)
        ]  # fmt: skip

        def on_rank(rank: int) -> torch.Tensor:
            lengths = [part[rank] for part in parts]
            side = side_cls(Workload("", lengths, [done[request] for request, _ in rows]))
            side.prepare(
                group,
                [tokens for _, tokens in rows],
                len(step.decodes),
                [self.requests.blocks[request] for request, _ in rows],
                [i < len(step.decodes) for i in range(len(rows))],
            )
            group.attn_metadata = {PREFIX: side.step(side.batch.common_metadata())[1]}
            inputs = [
                torch.cat([
                    self.requests.inputs[request].arguments()[kind][start : start + length]
                    for (request, _), start, length in zip(rows, first[rank], lengths, strict=True)
                ])
                for kind in range(4)
            ]  # fmt: skip
            self.layers[rank]._forward_core(*inputs)
            return inputs[-1]

        outputs = group.run(on_rank)
        for rank, output in enumerate(outputs):
            row = 0
            for i, (request, _) in enumerate(rows):
                start, length = first[rank][i], parts[i][rank]
                found = output[row : row + length]
                if i < len(step.decodes) and rank > 0:  # the same on all ranks
                    assert torch.equal(found, self.outputs[request][start : start + length])
                self.outputs[request][start : start + length] = found
                row += length

    def check(self, *chosen: int) -> None:
        """All outputs and, on all ranks, the states against those of one token after the other."""
        for request in chosen or range(self.count):
            layer, total = self.layers[0], self.totals[request]
            o, history, state = self.requests.reference(layer, request, total)
            found = self.outputs[request].double()
            torch.testing.assert_close(found, o, atol=6e-3, rtol=3e-2)
            for layer in self.layers:
                conv_state, ssm_state = (
                    states[self.requests.blocks[request]] for states in layer.kv_cache
                )
                assert torch.equal(conv_state, history)
                torch.testing.assert_close(
                    ssm_state.transpose(-1, -2).double(), state, atol=6e-3, rtol=3e-2
                )
        fresh = make_layer(StockLayer, SIZES, 0, BLOCKS)
        others = [block for block in range(BLOCKS) if block not in self.requests.blocks]
        for layer in self.layers:
            for found, before in zip(layer.kv_cache, fresh.kv_cache, strict=True):
                assert torch.equal(found[others], before[others])


LONG = [
    Step(prefills=((0, 300),)),
    Step(prefills=((0, 200),)),
    Step(prefills=((0, 129),)),
    Step(decodes=(0,)),
]
SEVERAL = [
    Step(prefills=((0, 130), (1, 200))),
    Step(prefills=((0, 77), (1, 64), (2, 258))),
    Step(decodes=(0,), prefills=((1, 90), (2, 140))),
    Step(decodes=(0, 1), prefills=((2, 65), (3, 128))),
    Step(decodes=(0, 1, 2, 3)),
]
SHORT = [
    Step(prefills=((0, 100), (1, 1), (2, 2), (3, 3))),  # fewer tokens than ranks, or one each
    Step(decodes=(1,), prefills=((0, 1), (2, 3), (4, 5))),
    Step(decodes=(1, 2), prefills=((0, 2), (3, 1), (4, 1))),
    Step(decodes=(0, 1, 2, 3, 4)),
]
ONE_TOKEN = [Step(prefills=((0, 1),)), Step(decodes=(0,), prefills=((1, 1),)), Step(decodes=(0, 1))]


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(LONG, id="one long prompt in three chunks"),
        pytest.param(SEVERAL, id="several prompts, with decodes"),
        pytest.param(SHORT, id="prompts and chunks of a few tokens"),
        pytest.param(ONE_TOKEN, id="ranks without a token"),
    ],
)
def test_ranks_equal_one_token_after_the_other(steps: list[Step], size: int):
    run = Run(Ours, size, steps)
    run.check()
    prefill_steps = sum(len(step.prefills) > 0 for step in steps)
    assert run.gathered == 2 * prefill_steps


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("steps", [pytest.param(LONG, id="long"), pytest.param(SEVERAL, id="some")])
def test_equals_vllm_ascend_where_every_rank_has_a_few_tokens_of_each(steps, size: int):
    """Upstream is right there: the second chunk's initial state, too, counts once."""
    theirs, ours = Run(Theirs, size, steps), Run(Ours, size, steps)
    theirs.check()
    for own, other in zip(ours.outputs, theirs.outputs, strict=True):
        torch.testing.assert_close(own.float(), other.float(), atol=2e-3, rtol=2e-2)


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        # A part of one token counts as a decode (gdn_attn_builder.py, num_decodes), and as many of
        # the *first* prefills lose what the ranks before made of their states.
        pytest.param([Step(prefills=((0, 200), (1, 7)))], [0, 1], id="a part of one token"),
        # The convolution's last inputs are taken from whatever is before a part of one or two
        # (gdn.py, extract_last_width).
        pytest.param([Step(prefills=((0, 200), (1, 10)))], [1], id="a part of two tokens"),
        # It splits by a rank's own lengths: a part of one token with a state is a decode there.
        pytest.param(
            [Step(prefills=((0, 200),)), Step(prefills=((0, 4),))], [0], id="one token with a state"
        ),
    ],
)
def test_where_vllm_ascend_is_wrong(steps: list[Step], wrong: list[int]):
    Run(Ours, 4, steps).check()
    theirs = Run(Theirs, 4, steps)
    for request in wrong:
        with pytest.raises(AssertionError):
            theirs.check(request)


def test_another_split_over_ranks_is_refused():
    """Say, vLLM-Ascend's head and tail halves, which its attention layers take."""
    side = Ours(Workload("", [4], [0]))
    side.prepare(type("Rank", (), {"rank_in_group": 0, "world_size": 2}), [5], 0, [3], [False])
    with pytest.raises(GDNContractError, match=r"lengths \[4\] on rank 0 of 2, expected \[3\]"):
        side.step(side.batch.common_metadata())


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(Step(decodes=(0,), prefills=((1, 200), (2, 70))), id="decode and prefills"),
        pytest.param(Step(prefills=((0, 200), (1, 1))), id="a prompt without tokens on a rank"),
        pytest.param(Step(decodes=(0,), prefills=((1, 1),)), id="a rank with decodes alone"),
    ],
)
def test_nothing_is_read_back_from_the_device(step: Step, operators_without_data, mocker):  # noqa: F811
    """As in test_layer.py, on the rank that may have nothing of a prompt."""
    clear_ssm_states = allocating_operators.BY_NAME["clear_ssm_states"]
    mocker.patch.object(context_parallel, "clear_ssm_states", clear_ssm_states)
    mocker.patch.object(chunk_o_update, "chunk_gated_delta_rule_fwd_hupdate", allocated_hupdate)
    rows, rank, size = Run.rows(step), 1, 2
    parts = [1] * len(step.decodes) + [shares(tokens, size)[rank] for _, tokens in step.prefills]
    side = Ours(Workload("", parts, [9 if i in step.decodes else 0 for i, _ in rows]))
    group = SimpleNamespace(
        rank_in_group=rank,
        world_size=size,
        all_gather=lambda part, dim: part.expand(size, *part[0].shape),
    )
    decoding = [i < len(step.decodes) for i in range(len(rows))]
    blocks = list(range(1, len(rows) + 1))
    side.prepare(group, [tokens for _, tokens in rows], len(step.decodes), blocks, decoding)
    metadata = side.step(side.batch.common_metadata())[0]
    tables = metadata.context_parallel
    metadata = on_meta(metadata)
    assert metadata.context_parallel.state_indices.is_meta and not tables.state_indices.is_meta
    layer = make_layer(ContextParallelGatedDeltaNetAttention, SIZES, 0, BLOCKS).to("meta")
    layer.kv_cache = tuple(state.to("meta") for state in layer.kv_cache)
    activations = Activations.of(SIZES, sum(parts)).to("meta")
    mocker.patch.object(context_parallel, "get_pcp_group", return_value=group)
    with torch.inference_mode(), forward_context(metadata):
        layer._forward_core(*activations.arguments())


def allocated_hupdate(k: torch.Tensor, u: torch.Tensor, **tables) -> torch.Tensor:
    rows = len(tables["chunk_indices"]) + len(tables["cu_seqlens"]) - 1
    return k.new_empty(1, rows, u.shape[2], k.shape[3], k.shape[3], dtype=torch.float32)
