#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train a small Qwen3-Next with MTP layer on the recall task, on the CPU, from a seed.

    python examples/train_recall.py OUTDIR

Writes a checkpoint that vLLM and transformers load, and prints how well it does what was saved.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen3NextForCausalLM
from transformers.utils import logging

from mtp_module import MTP, split_experts
from recall_eval import acceptance, forgetful, load_mtp, right_answers
from recall_start import head_start, mtp_head_start
from recall_task import END, HELD_OUT_SEED, QUESTION_MARK, VOCABULARY, held_out, tell
from tiny_checkpoint import TinySizes, write_checkpoint

WEIGHTS = "model.safetensors"
SIZES = TinySizes(
    hidden_size=256,
    layers=4,
    head_dim=64,
    attention_head_dim=64,
    experts=0,
    vocab_size=VOCABULARY,
)
# Length of a row of text, and optimizer steps at that length: short first.
CURRICULUM = ((64, 110), (128, 60), (256, 50), (512, 40), (1024, 30), (2048, 30))
MTP_CURRICULUM = ((64, 30), (128, 60), (256, 90), (512, 60), (1024, 60))
STEP_TOKENS = 2048
LEARNING_RATE = 3e-3
WARM_UP = 30
DEPTHS = 3
DRAFTS_A_ROW = 16
"""From how many positions of a row depths 2 and 3 are trained."""

Rows = tuple[torch.Tensor, torch.Tensor]


def training_generator(seed: int) -> np.random.Generator:
    """Shares no seed with ``recall``, whose second number is a prompt's length."""
    return np.random.default_rng([seed, HELD_OUT_SEED])


def rows(rng: np.random.Generator, length: int, again: bool = True) -> Rows:
    """Token ids [batch, length] and where they answer a question (bool, same shape).

    Each row is a story and then a question for each of its chains, as far as they fit. ``again``
    fills the row with questions for parts of chains; their answers can be copied from above.
    """
    texts, answers = [], []
    for _ in range(STEP_TOKENS // length):
        story = tell(rng, int(length * rng.uniform(0.5, 0.85)))
        text = list(story.tokens)
        answer = [False] * len(text)
        chains = [story.chains[i] for i in rng.permutation(len(story.chains))]
        while len(text) < length and (chains or again):
            if chains:
                chain = chains.pop()
            else:
                chain = story.chains[rng.integers(len(story.chains))]
                chain = chain[rng.integers(len(chain) - 1) :]
            text += [QUESTION_MARK, *chain, END]
            answer += [False, False, *[True] * len(chain)]
        padding = max(0, length - len(text))
        texts.append([*text[:length], *[END] * padding])
        answers.append([*answer[:length], *[False] * padding])
    return torch.tensor(texts), torch.tensor(answers)


def answer_predictions(
    model: Qwen3NextForCausalLM, text: torch.Tensor, answer: torch.Tensor
) -> list[Rows]:
    """Logits [count, vocabulary] and the right tokens [count] of all answers."""
    hidden = model.model(text, use_cache=False).last_hidden_state
    here = answer[:, 1:]
    return [(model.lm_head(hidden[:, :-1][here]), text[:, 1:][here])]


def draft_predictions(
    model: Qwen3NextForCausalLM, mtp: MTP, text: torch.Tensor, answer: torch.Tensor
) -> list[Rows]:
    """The same of the drafts, by depth. The main model stays as it is."""
    with torch.no_grad():
        hidden = model.model(text, use_cache=False).last_hidden_state
    embed, predict = model.model.embed_tokens, model.lm_head
    # From position t, depth d predicts token t+1+d; all from t+1 on belong to one answer.
    within = [answer[:, 1:-1] & answer[:, 2:]]
    for depth in range(2, DEPTHS + 1):
        within.append(within[-1][:, :-1] & answer[:, depth + 1 :])
    drafting = mtp.start(embed(text[:, 1:]), hidden[:, :-1])
    drafts = [(predict(drafting.hidden[:, :-1][within[0]]), text[:, 2:][within[0]])]
    chosen = torch.multinomial(within[-1].float() + 1e-9, DRAFTS_A_ROW)
    drafting.choose(chosen)
    for depth in range(2, DEPTHS + 1):
        state = drafting.deeper(embed(text.gather(1, chosen + depth)))
        where = within[depth - 1].gather(1, chosen)
        drafts.append((predict(state[where]), text.gather(1, chosen + depth + 1)[where]))
    return drafts


class Training:
    """AdamW with warm-up and linear decay over ``steps``; prints how it goes."""

    def __init__(self, parameters: Iterable[nn.Parameter], steps: int) -> None:
        self.parameters = list(parameters)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0
        )
        self.step, self.steps = 0, steps
        self.begin = time.monotonic()
        self.recent: list[list[float]] = []

    def learn(self, length: int, predictions: list[Rows]) -> None:
        left = 1 - self.step / self.steps
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (self.step + 1) / WARM_UP) * max(0.02, left)
        loss = torch.stack([F.cross_entropy(logits, right) for logits, right in predictions]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        shares = [(logits.argmax(-1) == right).float().mean() for logits, right in predictions]
        self.recent.append([loss.item(), *(share.item() for share in shares)])
        if self.step % 20 == 0:
            mean, *right = np.mean(self.recent, axis=0)
            print(
                f"{time.monotonic() - self.begin:5.0f} s, step {self.step} of {self.steps}, "
                f"length {length}: loss {mean:.4f}, right tokens "
                + ", ".join(f"{share:.1%}" for share in right),
                flush=True,
            )
            self.recent = []


def train(model: Qwen3NextForCausalLM, mtp: MTP, seed: int) -> None:
    """The main model first, then the MTP layer on what it became."""
    rng = training_generator(seed)
    torch.manual_seed(seed)
    head_start(model)
    training = Training(model.parameters(), sum(steps for _, steps in CURRICULUM))
    for length, steps in CURRICULUM:
        for _ in range(steps):
            training.learn(length, answer_predictions(model, *rows(rng, length)))
    model.requires_grad_(False)
    mtp_head_start(mtp, model, rows(rng, 256)[0])
    training = Training(mtp.parameters(), sum(steps for _, steps in MTP_CURRICULUM))
    for length, steps in MTP_CURRICULUM:
        for _ in range(steps):
            training.learn(length, draft_predictions(model, mtp, *rows(rng, length, again=False)))


def save(path: Path, model: Qwen3NextForCausalLM, mtp: MTP) -> None:
    """Put the trained weights into the checkpoint at ``path``, in its own names and dtype."""
    state = dict(model.state_dict()) | {f"mtp.{n}": t for n, t in mtp.state_dict().items()}
    trained = split_experts(state)
    file = path / WEIGHTS
    old = load_file(file)
    if old.keys() != trained.keys():
        raise ValueError(f"names differ: {sorted(old.keys() ^ trained.keys())}")
    tensors = {name: trained[name].to(old[name].dtype).contiguous() for name in old}
    save_file(tensors, file, metadata={"format": "pt"})


def load(path: Path) -> tuple[Qwen3NextForCausalLM, MTP]:
    model = Qwen3NextForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model, load_mtp(path, model)


def report(path: Path, count: int) -> None:
    """Print how well the saved weights answer ``count`` held-out prompts of each length."""
    model, mtp = load(path)
    for length in (20, 64, 256, 1000, 2000):
        cases = held_out(count, (length,))
        right = right_answers(model, cases)
        lost = right_answers(model, cases, forgetful(every=64))
        drafts = ", ".join(f"{share:.1%}" for share in acceptance(model, mtp, cases))
        print(
            f"prompts of {length} tokens: {right:.1%} right, {lost:.1%} if the state is lost "
            f"every 64 tokens; MTP drafts accepted by depth: {drafts}",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train a small Qwen3-Next on the recall task.")
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more may change the last digits")
    parser.add_argument("--prompts", type=int, default=100, help="held out, of each length")
    options = parser.parse_args(arguments)
    if options.threads < 1 or options.prompts < 1:
        parser.error("--threads and --prompts: give 1 or more")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    try:
        write_checkpoint(options.outdir, SIZES)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # What is there may be trained: it stays until there are other weights, and is no start.
    with tempfile.TemporaryDirectory(prefix=".training-", dir=options.outdir) as folder:
        scratch = write_checkpoint(Path(folder, "model"), SIZES)
        model, mtp = load(scratch)
        print(f"{sum(p.numel() for m in (model, mtp) for p in m.parameters()):,} parameters")
        train(model, mtp, options.seed)
        save(scratch, model, mtp)
        os.replace(scratch / WEIGHTS, options.outdir / WEIGHTS)
    report(options.outdir, options.prompts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
