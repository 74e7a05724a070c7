# SPDX-License-Identifier: Apache-2.0
"""How well a checkpoint does the recall task, by Hugging Face transformers in float32."""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import DynamicCache, Qwen3NextForCausalLM

from mtp_module import MTP, fuse_experts
from recall_task import Recall

BATCH_TOKENS = 16384


def load_mtp(path: Path, model: Qwen3NextForCausalLM) -> MTP:
    """The checkpoint's MTP layer, float32."""
    tensors = load_file(path / "model.safetensors")
    prefix = "mtp."
    mtp = MTP(model.config)
    mtp.load_state_dict(
        fuse_experts(
            {n.removeprefix(prefix): t.float() for n, t in tensors.items() if n.startswith(prefix)}
        )
    )
    return mtp.eval()


def _batches(cases: Sequence[Recall]) -> list[list[Recall]]:
    """Prompts of one length each, since padding has no place in a recurrent state."""
    batches = []
    for length, group in groupby(sorted(cases, key=lambda c: len(c.prompt)),
                                 key=lambda c: len(c.prompt)):  # fmt: skip
        members = list(group)
        step = max(1, BATCH_TOKENS // length)
        batches += [members[i : i + step] for i in range(0, len(members), step)]
    return batches


def _texts(batch: Sequence[Recall]) -> torch.Tensor:
    """Prompts with their answers, padded with 0 on the right, where nothing reads it."""
    longest = max(len(case.answer) for case in batch)
    return torch.tensor([[*c.prompt, *c.answer, *[0] * (longest - len(c.answer))] for c in batch])


@torch.inference_mode()
def right_answers(
    model: Qwen3NextForCausalLM,
    cases: Sequence[Recall],
    hidden_states: Callable[[Qwen3NextForCausalLM, torch.Tensor], torch.Tensor] | None = None,
) -> float:
    """Share of the prompts whose whole greedy answer is right.

    The answers are fed back: all of a row's choices are right exactly if greedy decoding is.
    """
    right = 0
    for batch in _batches(cases):
        texts = _texts(batch)
        if hidden_states is None:
            hidden = model.model(texts, use_cache=False).last_hidden_state
        else:
            hidden = hidden_states(model, texts)
        begin = len(batch[0].prompt)
        chosen = model.lm_head(hidden[:, begin - 1 : -1]).argmax(-1).tolist()
        right += sum(
            row[: len(case.answer)] == case.answer for row, case in zip(chosen, batch, strict=True)
        )
    return right / len(cases)


def forgetful(every: int) -> Callable[[Qwen3NextForCausalLM, torch.Tensor], torch.Tensor]:
    """The hidden states if the GDN layers' recurrent state were lost each ``every`` tokens."""

    def hidden_states(model: Qwen3NextForCausalLM, texts: torch.Tensor) -> torch.Tensor:
        cache = DynamicCache(config=model.config)
        parts = []
        for part in texts.split(every, dim=1):
            output = model.model(part, past_key_values=cache, use_cache=True)
            parts.append(output.last_hidden_state)
            for i, layer in enumerate(model.model.layers):
                if layer.block_type == "linear_attention":
                    cache.update_recurrent_state(
                        torch.zeros_like(cache.get_recurrent_state(i, state_idx=0)), i
                    )
        return torch.cat(parts, dim=1)

    return hidden_states


@torch.inference_mode()
def acceptance(
    model: Qwen3NextForCausalLM, mtp: MTP, cases: Sequence[Recall], depths: int = 3
) -> list[float]:
    """Share of drafts that the main model's greedy choice confirms, by depth.

    As vLLM counts: a draft counts only if all before it were confirmed. Drafting starts after
    each answer token from which there are ``depths`` further ones.
    """
    accepted, drafts = [0] * depths, 0
    for batch in _batches(cases):
        texts = _texts(batch)
        hidden = model.model(texts, use_cache=False).last_hidden_state
        greedy = model.lm_head(hidden).argmax(-1)
        embed = model.model.embed_tokens
        begin, last = len(batch[0].prompt) - 1, texts.shape[1] - depths - 2
        if last < begin:
            continue
        positions = torch.arange(begin, last + 1).expand(len(batch), -1)
        ends = torch.tensor([len(case.prompt) + len(case.answer) for case in batch])
        counts = positions + depths + 1 < ends[:, None]
        drafting = mtp.start(embed(texts[:, 1:]), hidden[:, :-1])
        state = drafting.choose(positions)
        confirmed = counts
        drafts += int(counts.sum())
        for depth in range(depths):
            draft = model.lm_head(state).argmax(-1)
            confirmed = confirmed & (draft == greedy.gather(1, positions + depth + 1))
            accepted[depth] += int(confirmed.sum())
            if depth + 1 < depths:
                state = drafting.deeper(embed(draft))
    return [count / max(1, drafts) for count in accepted]
