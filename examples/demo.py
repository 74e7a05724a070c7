#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The main job, end to end: serve a small Qwen3-Next through the GDN worker and check it.

Starts vLLM's OpenAI-compatible server on the trained model of ``recall_model/``, with speculative
decoding, streams questions of mixed lengths at once, shows the answers and what the worker did, and
compares logprobs and tokens with Hugging Face transformers. Exit code 0 if all is right, 1 with the
reason if not.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import openai
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from demo_reference import Agreement, compare, load_reference, reference_logits
from demo_server import Server, ServerError
from demo_streams import Request, StreamError, make_requests, run_requests
from serve import GDN_WORKER, MAX_MODEL_LEN, RECALL_MODEL, server_command, server_environment
from server_guard import interrupt_on_signals
from server_ports import port_of, reserve_port

LENGTHS = (8, 63, 64, 65, 500, 1000, 2000)
MTP = '{"method": "qwen3_next_mtp", "num_speculative_tokens": 3}'
MAX_DIFFERENCE = 1e-3  # of float32 logprobs, against transformers in float32


class DemoFailed(RuntimeError):
    """The demo ran, and what it saw is not right."""


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(".cache", "demo"),
                        help="for the server's log")  # fmt: skip
    parser.add_argument("--worker-cls", default=GDN_WORKER,
                        help="another worker has no GDN counts to show")  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                        help="agreement is shown for both, and required for float32")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the questions")
    parser.add_argument("--no-mtp", action="store_true", help="decode without draft tokens")
    parser.add_argument("--start-timeout", type=float, default=900, help="seconds")
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error(f"--seed: got {options.seed}, expected 0 or more")
    return options


def worker_stats(server: Server) -> dict[str, float]:
    """``gdn_stats`` of the only worker."""
    results = server.call_workers("gdn_stats")
    if len(results) != 1 or not isinstance(results[0], dict):
        raise DemoFailed(f"gdn_stats gave {results!r}, and counts of one worker were expected")
    return results[0]


def stats_failure(stats: dict[str, float]) -> str | None:
    """Why these counts cannot be right after prefills of every kind, or None."""
    if not stats["prefill_steps"] > 0:
        return "the worker counted no prefill step"
    if stats["plans_built"] != stats["prefill_steps"]:
        return (
            f"{stats['plans_built']:.0f} plans for {stats['prefill_steps']:.0f} prefill steps: "
            "one each was expected"
        )
    if not stats["plans_reused"] > 0:
        return "no plan was shared between the KV cache groups"
    return None


def stats_table(stats: dict[str, float]) -> Table:
    table = Table(title="what the worker did (gdn_stats)", title_justify="left")
    table.add_column("count")
    table.add_column("value", justify="right")
    for name, value in stats.items():
        table.add_row(name, f"{value:,.0f}")
    if stats["prefill_steps"]:
        each = stats["host_us"] / stats["prefill_steps"]
        table.add_row("host_us per prefill step", f"{each:,.0f}")
    return table


def agreement_table(
    requests: Sequence[Request], agreements: Sequence[Agreement], tolerance: float
) -> Table:
    table = Table(title="against Hugging Face transformers, float32", title_justify="left")
    for name in ("prompt tokens", "max |Δ logprob|", "mean |Δ logprob|", "greedy tokens equal"):
        table.add_column(name, justify="right")
    table.add_column("agrees")
    for request, agreement in zip(requests, agreements, strict=True):
        table.add_row(
            str(len(request.prompt)),
            f"{agreement.max_difference:.1e}",
            f"{agreement.mean_difference:.1e}",
            f"{agreement.greedy_matches} of {agreement.greedy_tokens}",
            "no" if agreement.failure(tolerance) else "yes",
        )
    return table


def run_demo(console: Console, options: argparse.Namespace) -> None:
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    console.print(
        f"model: {RECALL_MODEL.name}, trained to follow words through a story; {options.dtype}"
    )

    requests = make_requests(LENGTHS, gap=1.0, seed=options.seed)
    tokenizer = AutoTokenizer.from_pretrained(RECALL_MODEL)
    console.print("for example:", tokenizer.decode(requests[0].prompt), "->",
                  tokenizer.decode(requests[0].answer), markup=False, highlight=False)  # fmt: skip
    reserved = reserve_port()
    # Few tokens a step, so that the long prompts are chunked and share steps with decodes. With AMX
    # vLLM 0.23.0 does not (platforms/cpu.py).
    budget = MAX_MODEL_LEN if torch.cpu._is_amx_tile_supported() else "512"
    extra = ["--served-model-name", "recall", "--dtype", options.dtype,
             "--max-num-batched-tokens", budget, "--max-num-seqs", "16",
             "--disable-uvicorn-access-log"]  # fmt: skip
    if not options.no_mtp and options.worker_cls == GDN_WORKER:
        extra += ["--speculative-config", MTP]
    command = server_command(RECALL_MODEL, port_of(reserved), options.worker_cls, extra)
    environment = server_environment() | {"VLLM_SERVER_DEV_MODE": "1"}  # for /collective_rpc
    stats: dict[str, float] | None = None
    with Server(command, environment, reserved, folder / "server.log") as server:
        console.print(f"server: {' '.join(command[1:])}", highlight=False)
        console.print("its start takes one to five minutes, most of them for imports")
        seconds = wait_for(server, console, options.start_timeout)
        console.print(f"server is up after {seconds:.0f} s; its log: {options.folder}/server.log")
        try:
            asyncio.run(run_requests(console, server.url, "recall", requests))
        except openai.OpenAIError as error:
            server.check_alive()
            raise ServerError(server.with_log(f"a request failed: {error!r}")) from error
        if options.worker_cls == GDN_WORKER:
            stats = worker_stats(server)
    console.print("server stopped")

    with console.status("running the same text through Hugging Face transformers"):
        reference = load_reference(RECALL_MODEL)
        agreements = [
            compare(reference_logits(reference, r.prompt, r.token_ids),
                    r.prompt, r.token_ids, r.prompt_logprobs)
            for r in requests
        ]  # fmt: skip
    console.print(agreement_table(requests, agreements, MAX_DIFFERENCE))
    if stats is not None:
        console.print(stats_table(stats))
    check(requests, agreements, stats, options.dtype)


def wait_for(server: Server, console: Console, timeout: float) -> float:
    """Until the server is up, with what goes on; returns the seconds that took."""
    say = partial(console.print, markup=False, highlight=False)
    if not console.is_terminal:
        return server.wait_until_healthy(timeout, say)
    with console.status("starting the server") as status:
        return server.wait_until_healthy(
            timeout, say, lambda now: status.update(f"starting the server: {now}")
        )


def check(
    requests: Sequence[Request],
    agreements: Sequence[Agreement],
    stats: dict[str, float] | None,
    dtype: str,
) -> None:
    """Raises DemoFailed with every reason that there is."""
    reasons = [stats_failure(stats)] if stats is not None else []
    wrong = sum(not request.right for request in requests)
    if wrong:
        reasons.append(f"{wrong} of {len(requests)} answers are wrong")
    if dtype == "float32":  # bfloat16 rounds too coarsely for logprobs to agree
        reasons += [agreement.failure(MAX_DIFFERENCE) for agreement in agreements]
    found = [reason for reason in reasons if reason is not None]
    if found:
        raise DemoFailed("; ".join(found))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    interrupt_on_signals()  # a plain `kill` goes the way of Ctrl-C, so that the server is ended too
    try:
        run_demo(console, options)
    except (DemoFailed, ServerError, StreamError, OSError) as error:
        console.print(f"FAILED: {error}", style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            console.print("stopped; no process is left behind")
        return 130
    agrees = ", and agrees with transformers" if options.dtype == "float32" else ""
    console.print(f"OK: every answer is right{agrees}", style="green")
    return 0


if __name__ == "__main__":
    sys.exit(main())
