# SPDX-License-Identifier: Apache-2.0
"""What is asked of the servers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

TTFT_PROMPTS = (512, 2048, 8192)
TTFT_CONCURRENCIES = (1, 16)


@dataclass(frozen=True)
class Load:
    """``num_prompts`` random prompts of ``input_len`` tokens, ``max_concurrency`` at a time."""

    name: str
    input_len: int
    output_len: int
    num_prompts: int
    max_concurrency: int

    @property
    def decodes(self) -> bool:
        """Whether there is a time per output token, which the first token is not part of."""
        return self.output_len > 1

    def warm_up(self) -> "Load":
        """The same prompts, but few of them and with short answers."""
        return replace(
            self,
            name=f"{self.name}, warm-up",
            output_len=min(self.output_len, 32),
            num_prompts=self.max_concurrency,
        )

    @property
    def is_one_prefill(self) -> bool:
        """Whether nothing but one prompt's prefill is under way at a time."""
        return self.max_concurrency == self.output_len == 1

    def profiled(self) -> "Load":
        return replace(self, name=f"{self.name}, profiled", num_prompts=4)


def seed_load(input_len: int, output_len: int, num_prompts: int, max_concurrency: int) -> Load:
    name = f"{max_concurrency} at once, {input_len} + {output_len} tokens"
    return Load(name, input_len, output_len, num_prompts, max_concurrency)


def ttft_loads(
    prompts: Sequence[int] = TTFT_PROMPTS, concurrencies: Sequence[int] = TTFT_CONCURRENCIES
) -> list[Load]:
    """One token each; one prompt at a time is repeated 16 times, 16 at once four times."""
    return [
        Load(f"TTFT, {at_once} x {tokens}", tokens, 1, 16 if at_once == 1 else 4 * at_once, at_once)
        for tokens in prompts
        for at_once in concurrencies
    ]
