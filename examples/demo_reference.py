# SPDX-License-Identifier: Apache-2.0
"""What Hugging Face transformers says of the same prompts and weights, in float32."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging


@dataclass(frozen=True)
class Agreement:
    """How one request's answer compares with the reference."""

    max_difference: float
    """Largest absolute difference of a prompt token's logprob; 0 for a one-token prompt."""
    mean_difference: float
    greedy_matches: int
    """Leading generated tokens that the reference would have chosen as well."""
    greedy_tokens: int

    def failure(self, tolerance: float) -> str | None:
        """Why this is no agreement, or None."""
        if not self.max_difference <= tolerance:  # so that NaN fails
            return f"logprobs differ by {self.max_difference:.2e}, more than {tolerance:.0e}"
        if self.greedy_matches < self.greedy_tokens:
            return f"greedy tokens part after {self.greedy_matches} of {self.greedy_tokens}"
        return None


def load_reference(model: Path) -> PreTrainedModel:
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it says that its own Triton kernels are not installed
    reference: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return reference.eval()


def compare(
    logits: torch.Tensor,
    prompt: Sequence[int],
    generated: Sequence[int],
    prompt_logprobs: Sequence[float],
) -> Agreement:
    """``logits`` [prompt + generated - 1, vocabulary], float32: the reference on the whole text.

    The generated tokens were fed back, so that equality at each position is equality of the
    greedy continuations.
    """
    count = len(prompt)
    expected = logits[: count - 1].log_softmax(-1)
    expected = expected.gather(1, torch.tensor(prompt[1:], dtype=torch.long)[:, None])[:, 0]
    difference = (expected - torch.tensor(prompt_logprobs, dtype=torch.float32)).abs()
    chosen = logits[count - 1 :].argmax(-1).tolist()
    return Agreement(
        max_difference=difference.max().item() if count > 1 else 0.0,
        mean_difference=difference.mean().item() if count > 1 else 0.0,
        greedy_matches=_leading_matches(zip(chosen, generated, strict=True)),
        greedy_tokens=len(generated),
    )


def _leading_matches(pairs: Iterable[tuple[int, int]]) -> int:
    matches = 0
    for ours, theirs in pairs:
        if ours != theirs:
            break
        matches += 1
    return matches


@torch.inference_mode()
def reference_logits(
    model: PreTrainedModel, prompt: Sequence[int], generated: Sequence[int]
) -> torch.Tensor:
    text = torch.tensor([[*prompt, *generated[:-1]]])
    logits: torch.Tensor = model(text, use_cache=False).logits[0].float()
    return logits
