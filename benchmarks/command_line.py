# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks' command lines have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def positive_int(text: str) -> int:
    """A type for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number, 1 or more")
    return value


def parser_of(description: str, rounds: int = 9) -> argparse.ArgumentParser:
    """With ``--rounds`` and ``--json``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=positive_int, default=rounds)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def require_cuda(parser: argparse.ArgumentParser) -> None:
    """End with a message if there is no CUDA device."""
    if not torch.cuda.is_available():
        parser.error("got no CUDA device, expected one: run this where vLLM for CUDA runs")
