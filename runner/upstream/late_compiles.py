# SPDX-License-Identifier: Apache-2.0
"""A request waits for a kernel to be compiled, up to a second, because of its length.

Triton compiles a kernel anew for an integer argument of 1, and for one that is a multiple of 16 or
is none: tokens, requests, blocks. Others are chosen by such numbers. The start-up of vLLM's V1
runner (``compile_or_warm_up_model`` in v1/worker/gpu_worker.py) runs the model at few sizes, all
round, and what a step does around the model not at all. Its V2 runner runs two steps of made-up
requests (v1/worker/gpu/warmup.py), and here the V1 runner runs more of them.

Versions: vLLM 0.23.0. Delete when its V1 runner does so too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter

import torch
from vllm import SamplingParams
from vllm.logger import init_logger
from vllm.utils.math_utils import cdiv
from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput
from vllm.v1.kv_cache_interface import MambaSpec

from ascend_gdn.runner.base import Base

logger = init_logger("vllm." + __name__)  # only under vLLM's name has a logger its handlers

GREEDY = SamplingParams(temperature=0)
SAMPLING = (
    GREEDY,
    SamplingParams(top_k=20),
    SamplingParams(top_p=0.9),
    SamplingParams(top_k=20, top_p=0.9),
    SamplingParams.for_sampler_warmup(),
)
ZEROED = (1, 2, 16)


@dataclass(frozen=True)
class Arrivals:
    """Requests that one step takes up; the next decodes them, and then they end."""

    lengths: list[int]
    """Of their prompts."""
    sampling: SamplingParams = GREEDY


def arrivals(max_seqs: int, max_tokens: int, max_len: int, captured: int) -> Iterator[Arrivals]:
    """One step after the other: as many requests, and as many tokens, as make a difference.

    Args:
        max_seqs: Requests that a step may have.
        max_tokens: Tokens that a step may have.
        max_len: Tokens that a prompt may have.
        captured: Tokens of the largest graph; 0 without.
    """
    for sampling in SAMPLING:
        for requests in (1, 2, 16, max_seqs):
            fit = min(requests, max_seqs, max_tokens // 2)
            yield Arrivals([2] * fit, sampling)
            yield Arrivals([])  # decodes alone
            yield Arrivals([2] * fit, sampling)
            yield Arrivals([2], sampling)  # decodes before a prefill
    yield Arrivals([])  # lest the first length shares its step with decodes
    for tokens in lengths(min(max_tokens, max_seqs * max_len), captured):
        parts = cdiv(tokens, max_len)
        yield Arrivals([(tokens + part) // parts for part in range(parts)])
        yield Arrivals([])


def lengths(largest: int, captured: int) -> Iterator[int]:
    """Of steps: whatever vLLM's experts have kernels of their own for (fused_moe.py).

    Their numbers of tokens are looked up with steps as wide as these, or have bounds at them. Of
    two integers it matters whether they are multiples of 16: tokens times experts a token, and that
    less the number of experts. Either is with one of these remainders, and neither with another.
    Up to ``captured`` a graph pads a step, so that the first without one are needed too.
    """
    yield from range(1, min(largest, 15) + 1)
    near = {captured} if 16 <= captured <= largest else set()
    step = 16
    while step <= largest:
        near.add(step)
        step += step // 2 if step.bit_count() == 1 else step // 3  # 16, 24, 32, 48, 64, ...
    for tokens in sorted(near):
        for more in (0, 1, 2, 3, 4, 8):
            yield tokens + more if tokens + more <= largest else tokens + more - 16


class CompiledAtStartMixin(Base):
    """Put it before a vLLM model runner in the bases."""

    def capture_model(self) -> int:
        # The last thing before vLLM watches for what is compiled too late, with graphs.
        size: int = super().capture_model()
        self.run_made_up_requests()
        return size

    @torch.inference_mode()
    def run_made_up_requests(self) -> None:
        """Run steps of requests that nobody sent, over the blocks of the KV cache.

        Not with pipeline parallelism and connectors, whose workers and peers would have to know.
        """
        config = self.vllm_config
        if (
            config.parallel_config.pipeline_parallel_size > 1
            or config.kv_transfer_config is not None
            or config.ec_transfer_config is not None
            or self.is_pooling_model
        ):
            return
        zeroed, started = cycle(ZEROED), perf_counter()
        decoded = 1 + self.num_spec_tokens
        running: dict[str, int] = {}
        gone: set[str] = set()
        captured = max(self.compilation_config.cudagraph_capture_sizes or [0])
        limits = self.max_num_reqs, self.max_num_tokens, self.max_model_len - decoded, captured
        for step, each in enumerate(arrivals(*limits)):
            room = self.max_num_tokens - sum(each.lengths)
            fit = min(room // decoded, self.max_num_reqs - len(each.lengths))
            decoding = dict(islice(running.items(), fit))
            gone |= running.keys() - decoding.keys()
            new = {f"made-up-{step}-{i}": length for i, length in enumerate(each.lengths)}
            self._run_made_up(new, each.sampling, decoding, gone, next(zeroed))
            running, gone = new, set(decoding)
        self._run_made_up({}, GREEDY, {}, gone | running.keys(), 0)
        self.gdn_stats.reset()
        logger.info(
            "ascend-gdn: ran %d steps of made-up requests in %.1f s, so that no request waits for "
            "a kernel.", step + 2, perf_counter() - started,
        )  # fmt: skip

    def _run_made_up(
        self,
        new: dict[str, int],
        sampling: SamplingParams,
        decoding: dict[str, int],
        gone: set[str],
        zeroed: int,
    ) -> None:
        """Run a step, whose ``new`` and ``decoding`` requests have prompts of so many tokens."""
        output, drafts = SchedulerOutput.make_empty(), self.num_spec_tokens
        output.scheduled_new_reqs = [
            NewRequestData(
                req_id=name,
                prompt_token_ids=[0] * length,
                mm_features=[],
                sampling_params=sampling.clone(),
                pooling_params=None,
                block_ids=self._made_up_blocks(length + 1 + drafts),
                num_computed_tokens=0,
                lora_request=None,
            )
            for name, length in new.items()
        ]
        cached = CachedRequestData.make_empty()
        cached.req_ids = list(decoding)
        cached.num_computed_tokens = list(decoding.values())
        cached.num_output_tokens = [1] * len(decoding)
        cached.new_block_ids = [None] * len(decoding)
        output.scheduled_cached_reqs = cached
        output.num_scheduled_tokens = dict.fromkeys(decoding, 1 + drafts) | new
        output.total_num_scheduled_tokens = sum(output.num_scheduled_tokens.values())
        if drafts > 0:
            output.scheduled_spec_decode_tokens = {name: [0] * drafts for name in decoding}
        output.num_common_prefix_blocks = [0] * len(self.kv_cache_config.kv_cache_groups)
        output.finished_req_ids = gone
        output.new_block_ids_to_zero = list(islice(self._cache_blocks(), zeroed))
        if self.execute_model(output) is None:
            self.sample_tokens(None)

    def _made_up_blocks(self, tokens: int) -> tuple[list[int], ...]:
        """Blocks for a request of so many tokens, a list a KV cache group; all share them."""
        blocks = []
        for group in self.kv_cache_config.kv_cache_groups:
            spec = group.kv_cache_spec
            drafts = spec.num_speculative_blocks if isinstance(spec, MambaSpec) else 0
            needed = cdiv(tokens, spec.block_size) + drafts
            blocks.append(list(islice(self._cache_blocks(), needed)))
        return tuple(blocks)

    def _cache_blocks(self) -> Iterator[int]:
        """All but the null block, over and over."""
        return cycle(range(1, self.kv_cache_config.num_blocks))
