# SPDX-License-Identifier: Apache-2.0
"""The arms of a comparison: whose worker serves, with CUDA graphs of which sizes."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

STOCK, OURS = SIDES = ("stock", "ours")
KV_CACHE_BYTES = 16 * 2**30
"""For all arms that are up at once. 16 requests that verify 3 drafts take 3.5 GB of states in the
worst of cases: 24 layers, float32."""
# The engine flags of vLLM-Ascend PR #7756's measurement, without its tensor parallelism and, which
# --spec says, its MTP of 3.
SEED_FLAGS = (
    "--async-scheduling",
    "--compilation-config",
    '{"cudagraph_mode": "FULL_DECODE_ONLY"}',
)
NAMED_MODEL_FLAGS = (
    *("--load-format", "dummy", "--max-model-len", "16384", "--max-num-seqs", "32"),
    *("--max-num-batched-tokens", "8192"),  # vLLM's own for a server on such a card
)


@dataclass(frozen=True)
class Arm:
    """One engine or server under test; ``flags`` are those of ``vllm serve`` but for --model."""

    side: str
    captures: int | None
    """Tokens of the largest batch that CUDA graphs are captured for; None: what vLLM takes."""
    flags: tuple[str, ...] = ()
    cores: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        return self.side if self.captures is None else f"{self.side}-{self.captures}"

    @property
    def environment(self) -> dict[str, str]:
        """Of its process: this one's, but each side keeps compiled code of its own.

        vLLM 0.23.0 leaves the worker's class out of the name that it keeps compiled code under
        (``compute_hash`` in config/parallel.py), so one side would be given the other's.
        """
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = os.environ.get("VLLM_CACHE_ROOT") or Path(caches, "vllm")
        return os.environ | {"VLLM_CACHE_ROOT": str(Path(root, self.side))}

    @property
    def stock(self) -> str:
        """The name of the arm that this one is compared with."""
        return replace(self, side=STOCK).name


def arms_of(options: argparse.Namespace) -> list[Arm]:
    """Stock and ours for each number of captured tokens; the caller's flags come last."""
    kinds = [Arm(side, tokens) for tokens in options.captures or [None] for side in SIDES]
    up = len(kinds) if options.servers == "together" else 1
    shared: list[str] = []
    if up > 1:
        shared += ["--gpu-memory-utilization", str(90 // up / 100)]
    if options.named_model:
        shared += [*NAMED_MODEL_FLAGS, "--kv-cache-memory-bytes", str(KV_CACHE_BYTES // up)]
    if options.model == "qwen3_5":
        shared.append("--language-model-only")  # images are not provided for
    if options.attention_backend != "auto":
        shared += ["--attention-backend", options.attention_backend]
    if options.seed_flags:
        shared += SEED_FLAGS
    if options.spec:
        draft = {"method": "mtp", "num_speculative_tokens": options.spec}
        shared += ["--speculative-config", json.dumps(draft)]
    # The protocol's client works in this process.
    cores = shares(os.sched_getaffinity(0), up + (1 if options.protocol else 0))
    return [
        replace(
            kind,
            flags=(*shared, *_own_flags(kind, options), *options.engine_args),
            cores=frozenset(cores[place % up]),
        )
        for place, kind in enumerate(kinds)
    ]


def _own_flags(arm: Arm, options: argparse.Namespace) -> list[str]:
    flags: list[str] = []
    if arm.captures is not None:
        sizes = [2**i for i in range(arm.captures.bit_length()) if 2**i < arm.captures]
        flags += ["--cudagraph-capture-sizes", *map(str, [*sizes, arm.captures])]
    backend = {STOCK: options.gdn_stock, OURS: options.gdn_ours}[arm.side]
    if backend != "auto":
        flags += ["--gdn-prefill-backend", backend]
    if arm.side == OURS:
        flags += ["--worker-cls", options.worker_cls]
    return flags


def shares(cores: Iterable[int], count: int) -> list[list[int]]:
    """``cores`` cut into ``count`` neighbouring parts of one size; all to each if too few."""
    ordered = sorted(cores)
    size = len(ordered) // count
    if not size:
        return [ordered] * count
    return [ordered[at * size : (at + 1) * size] for at in range(count)]


@contextmanager
def on_cores(cores: Iterable[int]) -> Iterator[None]:
    """What is started inside keeps to ``cores``, and so do its children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def rotated(arms: Sequence[Arm], by: int) -> list[Arm]:
    """Another one first each time."""
    first = by % len(arms)
    return [*arms[first:], *arms[:first]]
