# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn``, also ``python -P -m ascend_gdn.cli``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="GDN prefill metadata for vLLM and vLLM-Ascend: look into it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def explain(
    requests: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REQUESTS...",
            help="[COUNTx]TOKENS[@COMPUTED][+DRAFTS][/KEPT]: 512, 16x512, 1@700, 4@700+3/2",
            show_default=False,
        ),
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="the record of a step that verify mode found wrong")
    ] = None,
    groups: Annotated[int, typer.Option(min=1, help="KV cache groups of GDN layers")] = 3,
    value_heads: Annotated[int, typer.Option(min=1, help="of a rank")] = 32,
    max_num_seqs: Annotated[int, typer.Option(min=1)] = 256,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1)] = 8192,
) -> None:
    """Plan a step, and show how it is split and what its tables hold."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # before vLLM is imported
    from ascend_gdn.cli.explain import explain_record
    from ascend_gdn.cli.requests import record_of

    if (replay is None) == (not requests):
        raise typer.BadParameter("give requests, or --replay FILE", param_hint="REQUESTS")
    try:
        if replay is not None:
            from ascend_gdn.attention.step_record import StepRecord

            record = StepRecord.from_json(replay.read_text())
        else:
            limits = groups, value_heads, max_num_seqs, max_num_batched_tokens
            record = record_of(requests or [], *limits)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--replay" if replay else "") from error
    raise typer.Exit(explain_record(record))


def _before_flags(model: str | None) -> str | None:
    """Refuse a flag of vLLM's in the place of MODEL: whose value follows it, vLLM alone knows."""
    if model is not None and model.startswith("-"):
        raise typer.BadParameter("give MODEL first, then vLLM's flags", param_hint=model)
    return model


_MODEL = typer.Argument(help="a folder, or a name that vLLM knows", callback=_before_flags)
_PASSES_FLAGS_ON: dict[str, object] = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=_PASSES_FLAGS_ON)
def doctor(
    context: typer.Context,
    model: Annotated[str | None, _MODEL] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Say whether the worker would start here, also with MODEL and vLLM's flags, and what to do.

    No weights are loaded. The exit code is 1 where the worker would refuse.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # before vLLM is imported
    from rich.console import Console

    from ascend_gdn.cli.doctor import report
    from ascend_gdn.cli.doctor.examination import examine

    examination = examine(["--model", model, *context.args] if model else [])
    if as_json:
        typer.echo(report.as_json(examination))
    else:
        report.show(examination, Console())
    raise typer.Exit(int(not examination.starts))


@app.command(context_settings=_PASSES_FLAGS_ON)
def verify(
    context: typer.Context,
    model: Annotated[str, _MODEL],
    report: Annotated[Path, typer.Option(help="folder for the report and the logs")] = Path(),
) -> None:
    """Run vLLM's own worker and ours on MODEL, compare them, and write a report.

    All other options go to vLLM: --tensor-parallel-size 4 --max-model-len 8192.
    """
    from ascend_gdn.cli.verify_model import EngineFailedError, compare, write_report

    flags = ["--model", model, *context.args]
    for flag in flags:
        if flag.split("=")[0].replace("_", "-") == "--worker-cls":
            raise typer.BadParameter("both workers are run; leave it out", param_hint=flag)
    try:
        report.mkdir(parents=True, exist_ok=True)
        found = compare(flags, report, typer.echo).as_dict()
        written = write_report(found, flags, report)
    except (EngineFailedError, OSError) as error:
        typer.echo(f"failed: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(written[1].read_text())
    typer.echo(f"Verdict: {found['verdict']}. Report: {', '.join(map(str, written))}")
    raise typer.Exit(int(found["verdict"] != "right"))


_BENCH = _PASSES_FLAGS_ON | {"help_option_names": []}
benchmarks = typer.Typer(help="Measure both sides in one run, in a checkout of the repository.")
app.add_typer(benchmarks, name="bench", no_args_is_help=True)


@benchmarks.command("metadata", context_settings=_BENCH)
def bench_metadata(context: typer.Context) -> None:
    """Host time of a step's metadata, vLLM's (or vLLM-Ascend's) and ours."""
    _bench("metadata", context.args)


@benchmarks.command("serving", context_settings=_BENCH)
def bench_serving(context: typer.Context) -> None:
    """vLLM's worker and ours under load: engines, or servers by a protocol."""
    _bench("serving", context.args)


def _bench(benchmark: str, flags: list[str]) -> None:
    from ascend_gdn.cli import bench

    try:
        raise typer.Exit(bench.run(benchmark, flags))
    except bench.NoBenchmarksError as error:
        typer.echo(f"failed: {error}", err=True)
        raise typer.Exit(1) from error


def main() -> None:
    app(prog_name="ascend-gdn")


if __name__ == "__main__":
    main()
