# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn verify``: stock and ours on one model and machine, compared, with a report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LENGTHS = [1, 2, 63, 64, 65, 128, 200, 1217, 700, 7, 3000, 1]
"""Of the prompts: around a chunk, and around vLLM-Ascend's block of 1216 tokens."""
LARGEST_MEAN = 0.05
"""Of the differences between prompt logprobs, in bfloat16, of kernels that round elsewhere."""


class EngineFailedError(RuntimeError):
    """An engine ended without a result; what it said last is the message."""


@dataclass
class Comparison:
    """What came of the three engines."""

    stock: dict[str, Any]
    verified: dict[str, Any]
    """Ours, in verify mode."""
    ours: dict[str, Any]
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for stats in self.verified["stats"]:
            if not stats or stats["plans_built"] == 0:
                self.faults.append("a worker planned no prefill: the model has no GDN layers")
        if self.verified["tokens"] != self.ours["tokens"]:
            self.faults.append("verify mode changed the tokens")
        if self.mean > LARGEST_MEAN:
            self.faults.append(
                f"prompt logprobs are {self.mean:.3f} apart in the mean, expected {LARGEST_MEAN} "
                "at most"
            )

    @property
    def differences(self) -> list[float]:
        """Of all prompt logprobs."""
        return [
            abs(left - right)
            for lefts, rights in zip(
                self.stock["prompt_logprobs"], self.ours["prompt_logprobs"], strict=True
            )
            for left, right in zip(lefts, rights, strict=True)
        ]

    @property
    def mean(self) -> float:
        return sum(self.differences) / len(self.differences)

    @property
    def same(self) -> int:
        """Prompts that were given the same tokens."""
        both = zip(self.stock["tokens"], self.ours["tokens"], strict=True)
        return sum(left == right for left, right in both)

    def as_dict(self) -> dict[str, Any]:
        return {
            "verdict": "wrong" if self.faults else "right",
            "faults": self.faults,
            "prompts": self.ours["lengths"],
            "prompts_with_the_same_tokens": self.same,
            "prompt_logprobs_mean_difference": self.mean,
            "prompt_logprobs_largest_difference": max(self.differences),
            "seconds": {"stock": self.stock["seconds"], "ours": self.ours["seconds"]},
            "metadata_us_a_prefill_step": [
                stats["host_us"] / max(stats["prefill_steps"], 1) for stats in self.ours["stats"]
            ],
            "gdn_stats": self.ours["stats"],
            "gdn_stats_in_verify_mode": self.verified["stats"],
            "machine": self.ours["machine"],
        }


def as_markdown(report: dict[str, Any], flags: list[str]) -> str:
    lines = [
        f"# ascend-gdn verify: {report['verdict']}",
        "",
        f"`{' '.join(flags)}`",
        "",
        *(f"- **{fault}**" for fault in report["faults"]),
        f"- verify mode found no fault in {report['gdn_stats_in_verify_mode'][0]['steps']} steps",
        f"- {report['prompts_with_the_same_tokens']} of {len(report['prompts'])} prompts were "
        "given the same tokens as by vLLM's own worker; in bfloat16 others are to be expected "
        "where two tokens are nearly as likely",
        "- prompt logprobs are {prompt_logprobs_mean_difference:.4f} apart in the mean, "
        "{prompt_logprobs_largest_difference:.3f} at most".format(**report),
        "- all prompts at once, once more: {stock:.2f} s by vLLM's own worker, {ours:.2f} s by "
        "ours".format(**report["seconds"]),
        "- metadata of a prefill step, host: "
        + ", ".join(f"{us:.0f} us" for us in report["metadata_us_a_prefill_step"]),
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in report["machine"].items()),
    ]
    return "\n".join(lines) + "\n"


def compare(flags: list[str], folder: Path, say: Callable[[str], None]) -> Comparison:
    """Run stock, ours in verify mode, and ours, one after the other.

    Args:
        flags: vLLM's, the model's among them.
        folder: For the engines' logs, and what verify mode leaves.
        say: Told what is under way.

    Raises:
        EngineFailedError: An engine ended without a result.
    """
    results = []
    for name, ours, verify in (
        ("vllm", False, False),
        ("ours-in-verify-mode", True, True),
        ("ours", True, False),
    ):
        say(f"{name}: running, log in {folder / name}.log")
        job = {"flags": flags, "ours": ours, "verify": verify, "dumps": str(folder),
               "lengths": LENGTHS, "max_tokens": 16}  # fmt: skip
        results.append(_run(job, folder / name))
    stock, verified, own = results
    return Comparison(stock, verified, own)


def _run(job: dict[str, Any], place: Path) -> dict[str, Any]:
    job_file, result_file, log_file = (place.with_suffix(end) for end in (".job", ".json", ".log"))
    job_file.write_text(json.dumps(job))
    result_file.unlink(missing_ok=True)
    command = [sys.executable, "-P", "-m", "ascend_gdn.cli.engine_run", str(job_file)]
    with log_file.open("w") as log:
        code = subprocess.run(
            [*command, str(result_file)], stdout=log, stderr=log, check=False
        ).returncode
    job_file.unlink()
    if code != 0 or not result_file.exists():
        raise EngineFailedError(f"{_last_error(log_file)} (code {code}; {log_file})")
    result: dict[str, Any] = json.loads(result_file.read_text())
    result_file.unlink()
    return result


def _last_error(log_file: Path) -> str:
    lines = [line.strip() for line in log_file.read_text(errors="replace").splitlines()]
    errors = [line for line in lines if "Error" in line or "error:" in line]
    return (errors or lines or ["no output"])[-1]


def write_report(report: dict[str, Any], flags: list[str], folder: Path) -> list[Path]:
    """Write it as JSON and as Markdown, each whole or not at all."""
    written = []
    for name, text in (
        ("gdn-verify.json", json.dumps(report, indent=2) + "\n"),
        ("gdn-verify.md", as_markdown(report, flags)),
    ):
        part = folder / (name + ".part")
        part.write_text(text)
        written.append(part.replace(folder / name))
    return written
