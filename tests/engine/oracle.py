# SPDX-License-Identifier: Apache-2.0
"""Drafts for models that draft badly: what the model will say, as far as a hash lets it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Oracle:
    """Random models' MTP layers guess next to nothing right; of these every accepted count comes
    up. The file named by ``ORACLE`` holds each prompt with its tokens."""

    def __init__(self) -> None:
        known = json.loads(Path(os.environ["ORACLE"]).read_text())
        self.known = {tuple(prompt): tokens for prompt, tokens in known}

    def draft(self, drafts: torch.Tensor, prompt: list[int], said: int) -> None:
        """Write ``drafts`` [places] for a request that has ``said`` so many tokens."""
        right = (31 * said + 17 * len(prompt)) % 7  # 3 or more: all of them
        tokens = self.known[tuple(prompt)][said:]
        for place in range(len(drafts)):
            guess = tokens[place] if place < len(tokens) else 1
            drafts[place] = guess if place < right else guess ^ 1
