# SPDX-License-Identifier: Apache-2.0
"""What is asked of engines and servers."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, replace

BURSTS = ("1x128", "1x512", "1x1000", "1x2040", "1x8000", "16x500", "16x2048")


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

    def warm_up(self) -> Load:
        """The same prompts, but few of them and with short answers."""
        return replace(
            self,
            name=f"{self.name}, warm-up",
            output_len=min(self.output_len, 32),
            num_prompts=self.max_concurrency,
        )


def burst(name: str) -> Load:
    """``16x500``: 16 prompts of 500 tokens, sent at once, and one token of each; ``16x500+65``: 65.

    A type for argparse.
    """
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)(?:\+([1-9]\d*))?", name)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"got {name!r}, expected PROMPTSxTOKENS or PROMPTSxTOKENS+GENERATED, such as 16x500+65"
        )
    prompts, tokens, generated = (int(number or 1) for number in found.groups())
    return Load(name, tokens, generated, prompts, prompts)


def protocol_load(input_len: int, output_len: int, num_prompts: int, max_concurrency: int) -> Load:
    name = f"{max_concurrency} at once, {input_len} + {output_len} tokens"
    return Load(name, input_len, output_len, num_prompts, max_concurrency)
