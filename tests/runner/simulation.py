# SPDX-License-Identifier: Apache-2.0
"""vLLM's scheduler and our runner's copies, over a model that knows what its states are of.

A recurrent state is a number made of all tokens so far, a convolution's window the last tokens
themselves, attention's cache every token at its place. What a step reads, and what the prefix cache
holds, is checked against the text of the request.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from vllm.config import SchedulerConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    MambaSpec,
)
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.utils import CpuGpuBuffer
from vllm.v1.worker.mamba_utils import preprocess_mamba

from ascend_gdn.runner.cpu import StepCPUModelRunner
from ascend_gdn.runner.upstream.cpu_align import AlignedStates
from upstream_calls import COPY_FUNCS, state_copy_funcs

WINDOW = 3
GROUPS = {"first": 0, "second": 0, "third": 2}
"""GDN layer: its KV cache group. Attention's is group 1."""
POISON = float("nan")
WRONG_DRAFT = 10**7


class WrongState(AssertionError):
    pass


def require(condition: bool, *message: object) -> None:
    if not condition:
        raise WrongState(*message)


@dataclass
class Sizes:
    block_size: int
    num_spec: int
    max_seqs: int = 4
    budget: int = 64
    num_blocks: int = 200
    max_len: int = 200


def recurrent_state(tokens: list[int]) -> float:
    return float(hash(tuple(tokens)) % 2**50)


def window(tokens: list[int]) -> list[float]:
    return [float(token) for token in [-1] * WINDOW + tokens][-WINDOW:]


def kv_cache_config(sizes: Sizes) -> KVCacheConfig:
    gdn = MambaSpec(
        shapes=((WINDOW + sizes.num_spec, 1), (1,)),
        dtypes=(torch.float64, torch.float64),
        block_size=sizes.block_size,
        mamba_cache_mode="align",
        num_speculative_blocks=sizes.num_spec,
    )
    attention = FullAttentionSpec(
        block_size=sizes.block_size, num_kv_heads=1, head_size=1, dtype=torch.float32
    )
    groups = [
        KVCacheGroupSpec(["first", "second"], gdn),
        KVCacheGroupSpec(["attention"], attention),
        KVCacheGroupSpec(["third"], gdn),
    ]
    return KVCacheConfig(sizes.num_blocks, [], groups)


def vllm_config(sizes: Sizes) -> SimpleNamespace:
    """What vLLM's scheduler (0.23.0, 0.30.0) reads of a configuration."""
    speculative = None
    if sizes.num_spec:
        speculative = SimpleNamespace(
            num_speculative_tokens=sizes.num_spec,
            use_eagle=lambda: True,
            uses_draft_model=lambda: False,
            use_dflash=lambda: False,
            use_eagle_block_drop=lambda: True,
            use_multi_module_mtp=lambda: False,
            num_speculative_tokens_per_batch_size=None,
            max_num_new_slots_for_drafting=0,
        )
    return SimpleNamespace(
        scheduler_config=SchedulerConfig(
            max_num_seqs=sizes.max_seqs,
            max_num_batched_tokens=sizes.budget,
            max_model_len=sizes.max_len,
            enable_chunked_prefill=True,
            is_encoder_decoder=False,
            async_scheduling=False,
        ),
        cache_config=SimpleNamespace(
            num_gpu_blocks=sizes.num_blocks,
            enable_prefix_caching=True,
            mamba_cache_mode="align",
            block_size=sizes.block_size,
            enable_mamba_fine_grained_prefix_cache=False,
        ),
        parallel_config=SimpleNamespace(
            data_parallel_index=0,
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            pipeline_parallel_size=1,
        ),
        observability_config=SimpleNamespace(
            kv_cache_metrics=False,
            enable_mfu_metrics=False,
            enable_logging_iteration_details=False,
            per_request_spec_decode_metrics=False,
        ),
        model_config=SimpleNamespace(
            is_encoder_decoder=False,
            max_model_len=sizes.max_len,
            enable_return_routed_experts=False,
            is_diffusion=False,
            uses_mrope=False,
            return_sampling_mask=False,
        ),
        speculative_config=speculative,
        lora_config=None,
        kv_events_config=None,
        kv_transfer_config=None,
        ec_transfer_config=None,
        use_v2_model_runner=False,
        is_mm_encoder_only=False,
        ec_manager_config=SimpleNamespace(get_encoder_cache_manager_obj=lambda: None),
        max_concurrent_batches=1,
        max_in_flight_tokens=sizes.budget,
        num_speculative_tokens=sizes.num_spec,
        num_lookahead_tokens=sizes.num_spec,
    )


class Batch:
    """As much of vLLM's input batch as the copies touch."""

    def __init__(self, max_seqs: int) -> None:
        self.req_ids: list[str] = []
        self.num_accepted_tokens_cpu = np.ones(max_seqs, dtype=np.int32)
        self.vocab_size = 512
        self.sampling_metadata = None

    @property
    def req_id_to_index(self) -> dict[str, int]:
        return {req_id: row for row, req_id in enumerate(self.req_ids)}


def update_states(runner, out) -> None:
    """In place of GPUModelRunner._update_states (0.23.0): the same for what the copies read."""
    for req_id in out.finished_req_ids:
        runner.requests.pop(req_id, None)
    for new in out.scheduled_new_reqs:
        runner.requests[new.req_id] = SimpleNamespace(
            num_computed_tokens=new.num_computed_tokens,
            block_ids=tuple(map(list, new.block_ids)),
        )
    cached = out.scheduled_cached_reqs
    for place, req_id in enumerate(cached.req_ids):
        request = runner.requests[req_id]
        request.num_computed_tokens = cached.num_computed_tokens[place]
        blocks = cached.new_block_ids[place]
        if req_id in cached.resumed_req_ids:
            request.block_ids = tuple(map(list, blocks))
        elif blocks is not None:
            for own, new in zip(request.block_ids, blocks, strict=True):
                own.extend(new)
    batch = runner.input_batch
    counts = dict(zip(batch.req_ids, batch.num_accepted_tokens_cpu.tolist(), strict=False))
    stay = out.num_scheduled_tokens.keys() - cached.resumed_req_ids
    kept = [req_id for req_id in batch.req_ids if req_id in stay]
    batch.req_ids = kept + [req_id for req_id in out.num_scheduled_tokens if req_id not in kept]
    for row, req_id in enumerate(batch.req_ids):
        batch.num_accepted_tokens_cpu[row] = counts[req_id] if req_id in kept else 1


class Simulation:
    """Requests with known texts through vLLM's scheduler, a step at a time.

    ``GPUModelRunner._update_states`` and ``_prepare_inputs`` must be replaced around it.
    """

    def __init__(self, sizes: Sizes, rng: np.random.Generator, scheduler_cls=Scheduler) -> None:
        self.sizes, self.rng = sizes, rng
        self.texts: dict[str, list[int]] = {}
        self.hits = self.copies = self.copies_within = self.left_out = self.accepted = 0
        config, self.kv_cache_config = vllm_config(sizes), kv_cache_config(sizes)
        init_none_hash(sha256)
        self.scheduler = scheduler_cls(
            vllm_config=config,
            kv_cache_config=self.kv_cache_config,
            structured_output_manager=SimpleNamespace(
                should_advance=lambda request: False,
                accept_tokens=lambda *_: True,
                validate_tokens=lambda _, tokens: tokens,
            ),
            block_size=sizes.block_size,
            mm_registry=SimpleNamespace(supports_multimodal_inputs=lambda model_config: False),
        )
        blocks, state_width = sizes.num_blocks, WINDOW + sizes.num_spec
        self.attention = torch.full((blocks, sizes.block_size), POISON, dtype=torch.float64)
        self.layers = {
            name: SimpleNamespace(
                kv_cache=(
                    torch.full((blocks, state_width, 1), POISON, dtype=torch.float64),
                    torch.full((blocks, 1), POISON, dtype=torch.float64),
                )
            )
            for name in GROUPS
        }
        self.runner = self._make_runner(config)

    def _make_runner(self, config) -> StepCPUModelRunner:
        runner = object.__new__(StepCPUModelRunner)  # without vLLM's own set-up
        runner.cache_config = config.cache_config
        runner.speculative_config = config.speculative_config
        runner.kv_cache_config = self.kv_cache_config
        runner.model = SimpleNamespace(get_mamba_state_copy_func=lambda: COPY_FUNCS)
        runner.max_num_reqs = self.sizes.max_seqs
        self.copy_funcs = state_copy_funcs(self.kv_cache_config.kv_cache_groups[0].kv_cache_spec)
        runner._mamba_state_copy_funcs = self.copy_funcs  # 0.30.0
        runner.model_config = SimpleNamespace(is_hybrid=True)
        runner.device, runner.pin_memory = torch.device("cpu"), False
        runner.requests, runner.mamba_state_idx, runner._mamba_bufs = {}, {}, None
        runner.left_out, runner.returned, runner.use_async_scheduling = {}, {}, False
        runner.num_accepted_tokens_event = SimpleNamespace(synchronize=lambda: None)
        runner.input_batch = Batch(self.sizes.max_seqs)
        runner.num_accepted_tokens = CpuGpuBuffer(
            self.sizes.max_seqs, dtype=torch.int32, device=runner.device, pin_memory=False
        )
        states = AlignedStates(self.kv_cache_config, self.layers, COPY_FUNCS)
        make_copy = states.copy

        def counted(blocks, copy) -> None:
            self.copies += 1
            self.copies_within += copy.source == copy.target
            make_copy(blocks, copy)

        states.copy = counted
        runner.aligned_states = states
        return runner

    def add(self, prompt: list[int], answer: list[int]) -> str:
        req_id = str(len(self.texts))
        self.texts[req_id] = prompt + answer
        self.scheduler.add_request(
            Request(
                request_id=req_id,
                prompt_token_ids=prompt,
                sampling_params=SamplingParams(max_tokens=len(answer), ignore_eos=True),
                pooling_params=None,
                block_hasher=get_request_block_hasher(self.sizes.block_size, sha256),
            )
        )
        return req_id

    def finish(self) -> None:
        while self.scheduler.requests:
            self.step()

    def step(self) -> None:
        out = self.scheduler.schedule()
        runner, before = self.runner, set(self.runner.input_batch.req_ids)
        runner._update_states(out)
        self.hits += sum(new.num_computed_tokens > 0 for new in out.scheduled_new_reqs)
        self.left_out += len(before & runner.requests.keys() - out.num_scheduled_tokens.keys())
        sampled, drafted, rows = [], [], runner.input_batch.req_ids
        if out.num_scheduled_tokens:
            runner._prepare_inputs(out)
            preprocess_mamba(
                out,
                self.kv_cache_config,
                runner.cache_config,
                runner.mamba_state_idx,
                runner.input_batch,
                runner.requests,
                self.layers,
                self.copy_funcs,
                runner._get_mamba_bufs().preprocess,
            )
            for row, req_id in enumerate(rows):
                drafts = out.scheduled_spec_decode_tokens.get(req_id, [])
                self._forward(row, req_id, out.num_scheduled_tokens[req_id], drafts)
                new = self._sample(req_id, out.num_scheduled_tokens[req_id], drafts)
                sampled.append(new)
                drafted.append(self._draft(req_id, len(new)) if new else [])
                self.accepted += max(len(new) - 1, 0)
            if self.sizes.num_spec:
                ids = torch.full((len(rows), self.sizes.num_spec + 1), -1)
                for row, new in enumerate(sampled):  # of a prefill that goes on: one, discarded
                    ids[row, : max(len(new), 1)] = torch.tensor(new or [0])
                runner._update_states_after_model_execute(ids, out)
        output = ModelRunnerOutput(list(rows), runner.input_batch.req_id_to_index, sampled)
        self.scheduler.update_from_output(out, output)
        if self.sizes.num_spec:
            self.scheduler.update_draft_token_ids(DraftTokenIds(list(rows), drafted))
        self._check_prefix_cache()

    def _forward(self, row: int, req_id: str, scheduled: int, drafts: list[int]) -> None:
        """Read the request's states and check them, write those of its new tokens."""
        request, text = self.runner.requests[req_id], self.texts[req_id]
        start, size = request.num_computed_tokens, self.sizes.block_size
        tokens = text[: start + scheduled - len(drafts)] + drafts
        accepted = int(self.runner.input_batch.num_accepted_tokens_cpu[row])
        about = (req_id, start, scheduled, len(drafts), accepted)
        kv_blocks = request.block_ids[1]
        for place, token in enumerate(tokens):
            cell = (kv_blocks[place // size], place % size)
            if place >= start:
                self.attention[cell] = token
            require(self.attention[cell].item() == token, "attention", place, *about)
        running = (start + scheduled - 1) // size
        for name, group in GROUPS.items():
            windows, recurrent = self.layers[name].kv_cache
            blocks = request.block_ids[group]
            if start:
                own = windows[blocks[running], accepted - 1 :][:WINDOW, 0].tolist()
                require(own == window(text[:start]), "window", own, *about)
                own = recurrent[blocks[running + accepted - 1]].item()
                require(own == recurrent_state(text[:start]), "recurrent", own, *about)
            windows[blocks[running]] = POISON
            # As our builder: one that kept several tokens speculates, drafts or not.
            speculates = drafts or (scheduled == 1 and accepted > 1)
            for place in range(scheduled) if speculates else [0]:
                end = start + place + 1 if speculates else start + scheduled
                recurrent[blocks[running + place]] = recurrent_state(tokens[:end])
                own = torch.tensor(window(tokens[:end]), dtype=torch.float64)
                windows[blocks[running], place : place + WINDOW, 0] = own

    def _sample(self, req_id: str, scheduled: int, drafts: list[int]) -> list[int]:
        """The tokens that are kept; none of a prefill that goes on."""
        text = self.texts[req_id]
        end = self.runner.requests[req_id].num_computed_tokens + scheduled - len(drafts)
        if end < self.scheduler.requests[req_id].num_tokens:
            return []
        count = 1
        for place, draft in enumerate(drafts):
            if text[end + place : end + place + 1] != [draft]:
                break
            count += 1
        return text[end : end + count]

    def _draft(self, req_id: str, new: int) -> list[int]:
        """Any number of right ones, then wrong ones."""
        end = self.scheduler.requests[req_id].num_tokens + new
        right = self.texts[req_id][end:][: int(self.rng.integers(self.sizes.num_spec + 1))]
        return (right + [WRONG_DRAFT] * self.sizes.num_spec)[: self.sizes.num_spec]

    def _check_prefix_cache(self) -> None:
        """Every cached block of a GDN group holds the state that its hash stands for."""
        pool, size = self.scheduler.kv_cache_manager.block_pool, self.sizes.block_size
        for req_id, request in self.scheduler.requests.items():
            for place, block_hash in enumerate(request.block_hashes):
                tokens = self.texts[req_id][: (place + 1) * size]
                for name, group in GROUPS.items():
                    for block in pool.get_cached_block(block_hash, [group]) or []:
                        windows, recurrent = self.layers[name].kv_cache
                        own = recurrent[block.block_id].item()
                        require(own == recurrent_state(tokens), "cached", req_id, place)
                        own = windows[block.block_id, :WINDOW, 0].tolist()
                        require(own == window(tokens), "cached window", req_id, place)
